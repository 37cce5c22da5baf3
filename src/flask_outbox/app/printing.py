"""What ``flask outbox`` prints: tables for people, JSON for scripts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, cast

import click


def moment(at: float | None) -> str:
    """Write a time in UTC."""
    if at is None:
        return "-"
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """Turn values of ours into what JSON has."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        pairs = cast("dict[object, object]", value)
        return {str(plain(key)): plain(each) for key, each in pairs.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in cast("Iterable[object]", value)]
    return value


def as_json(value: object) -> None:
    """Print it for a script."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it for a person."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
