"""What ``flask outbox`` prints: tables for people, JSON for scripts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from flask_outbox.outbox.workers import Badge, Worker

OTHERS = {
    "version": "runs version {0.version}; this app has {1.version}",
    "schema": "was written for schema {0.schema}; this app for {1.schema}",
    "settings": "has other settings than this app: restart it, or send its parent SIGHUP",
    "secret": "has another SECRET_KEY than this app: give every host that sends the same",
}


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


def differences(worker: "Worker", badge: "Badge") -> list[str]:
    """Say in words what a worker runs with another of than this app."""
    return [OTHERS[each].format(worker, badge) for each in worker.differs(badge)]
