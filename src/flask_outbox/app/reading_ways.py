"""How MAIL_TRANSPORT and MAIL_TRANSPORTS are read: one way out, or several with their weights.

A list is a failover, the first is preferred; a mapping shares the mail by weights. A list may have
mappings in it.
"""

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from flask_outbox.app.reading import wrong
from flask_outbox.mail.errors import ConfigurationError

LONGEST_NAME = 64  # characters, in the outbox


class Weighted(NamedTuple):
    """One of several ways out."""

    value: Any  # a URL, or a transport
    weight: float


class Several(NamedTuple):
    """Ways out by tiers: the next tier is for when none of the one before may be used."""

    tiers: tuple[tuple[Weighted, ...], ...]


def way_out(key: str, value: object) -> object:
    """Read one transport: a URL or an object, or several of them; from the environment, JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        try:
            value = json.loads(value)
        except ValueError:
            raise wrong(key, "a URL, or a JSON list or object of URLs") from None
    if isinstance(value, (list, tuple)):
        listed = cast("list[object] | tuple[object, ...]", value)
        if not listed:
            raise wrong(key, "a list of at least one URL")
        return Several(tuple(_tier(f"{key}[{n}]", each) for n, each in enumerate(listed)))
    if isinstance(value, Mapping):
        return Several((_tier(key, cast("object", value)),))
    return _single(key, value)


def _tier(key: str, value: object) -> tuple[Weighted, ...]:
    if not isinstance(value, Mapping):
        return (Weighted(_single(key, value), 1.0),)
    weights = cast("Mapping[object, object]", value)
    if not weights:
        raise wrong(key, "a mapping of at least one URL to its weight")
    return tuple(
        Weighted(_single(key, each), _weight(key, weight)) for each, weight in weights.items()
    )


def _weight(key: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        weight = float(value)
        if math.isfinite(weight) and weight > 0:
            return weight
    raise wrong(key, "a mapping of URLs to weights, numbers above 0, like {'ses://…': 3, …: 1}")


def _single(key: str, value: object) -> object:
    if isinstance(value, str) and ":" in value:
        return value
    if callable(getattr(value, "send", None)):
        return value
    raise wrong(
        key,
        "a URL, like 'smtps://user:secret@mail.example.com', a list of them for failover, or a"
        " mapping of them to weights",
    )


def ways_out(key: str, value: object) -> Mapping[str, object]:
    """Read transports by name; from the environment, a JSON object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise wrong(key, "a mapping of names to URLs, like {'bulk': 'smtp://mail.example.com'}")
    named = cast("Mapping[str, object]", value)
    for name in map(str, named):
        must_be_a_name(f"{key}: the name {quoted(name)}", name, ConfigurationError)
    return MappingProxyType(
        {str(name): way_out(f"{key}[{name!r}]", v) for name, v in named.items()}
    )


def quoted(name: object) -> str:
    """Quote a name for an error; what may be a URL has a password in it, and is not told."""
    text = str(name)
    return "(a URL)" if "://" in text or "@" in text else repr(text[:LONGEST_NAME])


def must_be_a_name(what: str, name: str, error: type[Exception]) -> None:
    """Raise an error for what no transport can be called."""
    if "://" in name:
        raise error(f"{what} must be a name of your own, like 'bulk'; a URL is what it is for.")
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
        raise error(f"{what} must be 1 to {LONGEST_NAME} printable characters.")
