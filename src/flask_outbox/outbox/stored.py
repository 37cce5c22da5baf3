"""How a submission is written into columns and read back, by this version's code and by others'.

What no query asks for is one JSON object. A field that is not there has its default; one that
this version does not know is left alone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, cast

from sqlalchemy import RowMapping

from flask_outbox.mail.submission import Dsn, Submission

_written = json.JSONEncoder(separators=(",", ":")).encode
_WORDS = ("mail_options", "rcpt_options", "tags")
_TRACKED = ("track_opens", "track_clicks")
_FLAGS = ("utf8", "sensitive", "at_most_once")
_DATE = '{"date":'
_RARE = (*_WORDS, *_FLAGS, "metadata", "dsn", "provider")


class Unreadable(Exception):  # noqa: N818  it never leaves this floor: the row becomes poison
    """A row that cannot be made into a submission."""


def pack(submission: Submission) -> str:
    """Write down what has no column of its own."""
    tracked = {name: said for name in _TRACKED if (said := getattr(submission, name)) is not None}
    if not tracked and not any(getattr(submission, name) for name in _RARE):
        return f"{_DATE}{float(submission.date)!r}}}"
    extra: dict[str, Any] = {"date": submission.date}
    extra.update((name, True) for name in _FLAGS if getattr(submission, name))
    extra.update((name, list(words)) for name in _WORDS if (words := getattr(submission, name)))
    if submission.metadata:
        extra["metadata"] = dict(submission.metadata)
    if submission.provider:
        extra["provider"] = dict(submission.provider)
    extra.update(tracked)
    if (dsn := submission.dsn) is not None:
        extra["dsn"] = {
            "notify": {whom: list(words) for whom, words in dsn.notify.items()},
            "ret": dsn.ret,
            "envid": dsn.envid,
        }
    return _written(extra)


def is_sensitive(extra: str) -> bool:
    """Tell whether ``pack`` wrote down that a message is sensitive."""
    if "sensitive" not in extra:
        return False
    with suppress(ValueError, AttributeError):
        return json.loads(extra).get("sensitive") is True
    return False


def rewritten(extra: str, change: Callable[[str], str]) -> str:
    """Change every text in what ``pack`` wrote, names included."""
    try:
        before = json.loads(extra)
    except ValueError:
        return change(extra)
    after = _changed(before, change)
    return extra if after == before else _written(after)


def _changed(value: object, change: Callable[[str], str]) -> object:
    match value:
        case str():
            return change(value)
        case list():
            return [_changed(each, change) for each in cast("list[object]", value)]
        case dict():
            pairs = cast("dict[str, object]", value)
            return {change(name): _changed(each, change) for name, each in pairs.items()}
        case _:
            return value


def unpack(row: Mapping[str, Any] | RowMapping, recipients: Sequence[str]) -> Submission:
    """Make the submission of a row of ``outbox_message`` joined with its content.

    Raises Unreadable, without a word of what was in it.
    """
    try:
        extra = _extra(row["extra"])
        return Submission(
            sender=row["sender"],
            recipients=tuple(recipients),
            content=bytes(row["content"]),
            message_id=row["message_id"],
            date=float(extra["date"]),
            id=row["id"],
            transport=row["transport"],
            route=row["route"],
            fence=row["fence"] or "",
            attempt=row["attempts"],
            claimed_at=row.get("claimed_at"),
            alone=bool(row["alone"]),
            **(_rest(extra) if len(extra) > 1 else {}),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unreadable(type(error).__name__) from None


def _extra(stored: str) -> Mapping[str, Any]:
    """Read what ``pack`` wrote; most mails have a date alone."""
    if stored.startswith(_DATE) and stored.endswith("}"):
        with suppress(ValueError):
            return {"date": float(stored[len(_DATE) : -1])}
    read: Mapping[str, Any] = json.loads(stored)
    return read


def _rest(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Read what most mails do not have."""
    return {
        **{name: tuple(extra.get(name, ())) for name in _WORDS},
        **{name: extra.get(name, False) for name in _FLAGS},
        **{name: extra.get(name) for name in _TRACKED},
        "dsn": _dsn(extra.get("dsn")),
        "metadata": MappingProxyType(dict(extra.get("metadata", {}))),
        "provider": MappingProxyType(dict(extra.get("provider", {}))),
    }


def _dsn(stored: Mapping[str, Any] | None) -> Dsn | None:
    if stored is None:
        return None
    return Dsn(
        notify={whom: tuple(words) for whom, words in stored["notify"].items()},
        ret=stored["ret"],
        envid=stored["envid"],
    )
