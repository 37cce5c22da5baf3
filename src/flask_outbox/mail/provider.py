"""``Message(provider={…})``: what a provider is told in its own words, checked value by value.

It goes into a JSON object, so a control character could not break out of anything here; but the
far side puts such values into mails, and into headers of mails.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

from flask_outbox.mail.address import refuse_control_characters
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.limits import Limits, check_words
from flask_outbox.mail.message import Message

DEEPEST = 10  # values within values


def read_provider(message: Message, limits: Limits) -> dict[str, Any]:
    """Check that it is JSON without control characters; give a copy of plain dicts and lists."""
    if message.sensitive:
        raise MessageError(
            "provider cannot be kept encrypted as the content of a sensitive mail is: leave one out"
        )
    read: dict[str, Any] = _read(message.provider, "provider", 0)
    check_words(["".join(_texts(read))], "provider", limits)
    return read


def _read(value: object, where: str, depth: int) -> Any:
    if depth > DEEPEST:
        raise MessageError(f"{where} is more than {DEEPEST} levels deep")
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            return refuse_control_characters(value, where)
        case list() | tuple():
            several = cast("list[object] | tuple[object, ...]", value)
            return [_read(each, f"{where}[{at}]", depth + 1) for at, each in enumerate(several)]
        case dict():
            pairs = cast("dict[object, object]", value)
            return {
                _name(name, where): _read(each, f"{where}[{name!r}]", depth + 1)
                for name, each in pairs.items()
            }
        case _:
            raise MessageError(f"{where} must be a value of JSON, not {type(value).__name__}")


def _name(name: object, where: str) -> str:
    if not isinstance(name, str):
        raise MessageError(f"{where}: names must be str, not {type(name).__name__}")
    return refuse_control_characters(name, f"{where}: a name")


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for each in cast("list[object]", value):
                yield from _texts(each)
        case dict():
            for name, each in cast("dict[str, object]", value).items():
                yield name
                yield from _texts(each)
        case _:
            return
