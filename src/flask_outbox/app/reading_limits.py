"""How MAIL_RATE and its like are read: texts, numbers, and mappings of them. As in reading.py."""

import json
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from flask_outbox.app.reading import whole, wrong
from flask_outbox.app.reading_ways import must_be_a_name, quoted
from flask_outbox.mail.address import parse_address
from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.rates import EVERY, Rates, per_second

if TYPE_CHECKING:
    from flask_outbox.app.settings import Settings

AT_ONCE_MOST = 1_000_000
OF_TRANSPORTS = ("MAIL_RATE", "MAIL_CONCURRENCY")

_Read = Callable[[str, Any], Any]
_at_once = whole(1, AT_ONCE_MOST)


def rates(key: str, value: object) -> Mapping[str, float]:
    """Read one rate for every transport, or a mapping of their names to rates."""
    return _read(key, value, _transport, _rate, "or a mapping of transports to such")


def domain_rates(key: str, value: object) -> Mapping[str, float]:
    """Read one rate for every domain, or a mapping of domains to rates."""
    return _read(key, value, _domain, _rate, "or a mapping of domains to such")


def at_once(key: str, value: object) -> Mapping[str, int]:
    """Read one number for every transport, or a mapping of their names to numbers."""
    return _read(key, value, _transport, _at_once, "or a mapping to such")


def domains_at_once(key: str, value: object) -> Mapping[str, int]:
    """Read one number for every domain, or a mapping of domains to numbers."""
    return _read(key, value, _domain, _at_once, "or a mapping to such")


def warm_up(key: str, value: object) -> Mapping[str, float]:
    """Read a mapping of sending domains to the days on which they begin."""
    found = _read(key, value, _domain, _midnight, "in a mapping of sending domains")
    if EVERY in found:
        raise wrong(key, "a mapping of sending domains, each by its name, to dates")
    return found


def _read(
    key: str, value: object, name_of: Callable[[str, str], str], read: _Read, more: str
) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = value.strip() or None
        if value is not None and value.startswith("{"):
            value = json.loads(value)
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, Mapping):
        try:
            return MappingProxyType({EVERY: read(key, value)})
        except ConfigurationError as error:
            text = str(error).removesuffix(".")
            raise ConfigurationError(f"{text}, {more}.") from None
    found: dict[str, Any] = {}
    for given, each in cast("Mapping[object, object]", value).items():
        where = f"{key}[{quoted(given)}]"
        name = EVERY if given == EVERY else name_of(where, str(given))
        if name in found:
            raise ConfigurationError(f"{where} is there twice: keep one of them.")
        found[name] = read(where, each)
    return MappingProxyType(found)


def _rate(key: str, value: object) -> float:
    found = per_second(value) if isinstance(value, str) else None
    if found is None:
        raise wrong(key, "a rate, like '50/s', '1000/m', '20000/h' or '50000/d'")
    return found


def _midnight(key: str, value: object) -> float:
    try:
        day = value if isinstance(value, date) else date.fromisoformat(cast("str", value))
    except (TypeError, ValueError):
        raise wrong(key, "a date, like '2026-12-01'") from None
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _transport(key: str, name: str) -> str:
    must_be_a_name(f"{key}: the name", name, ConfigurationError)
    return name


def _domain(key: str, name: str) -> str:
    try:
        return parse_address(f"x@{name}", key).domain
    except MessageError:
        raise wrong(key, "a domain's: name one, like 'example.com', or '*'") from None


def must_be_known(settings: "Settings", names: Collection[str]) -> None:
    """Raise ConfigurationError for a limit of a transport that there is not."""
    for key in OF_TRANSPORTS:
        limits: Mapping[str, Any] = getattr(settings, key.removeprefix("MAIL_").lower())
        for name in limits:
            if name not in {EVERY, *names}:
                raise ConfigurationError(
                    f"{key}[{quoted(name)}] is about no transport: name one of"
                    f" {', '.join(map(repr, names))}, or '*' for every other. (One that"
                    " load_transport knows may be named where that comes before init_app.)"
                )


def limits_of(settings: "Settings") -> Rates:
    """Put together how fast an app's mail may go."""
    return Rates(
        transports=settings.rate,
        at_once=settings.concurrency,
        domains=settings.domain_rates,
        domains_at_once=settings.domain_concurrency,
        warm_up=settings.warm_up,
    )
