"""What goes along with a message: files, inline images, a calendar invitation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from mimetypes import guess_type
from typing import Any, cast

from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.files import FilePath

Data = str | bytes | Iterable[bytes] | FilePath

_METHOD = re.compile(r"^METHOD:([A-Za-z-]+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Invitation:
    """An iCalendar object (RFC 5545) to be offered as an invitation (RFC 6047).

    ``method`` is read from the object's METHOD line unless given, and must be the same.
    """

    content: str = field(repr=False)
    method: str = ""

    def __post_init__(self) -> None:
        for part, value in (("content", self.content), ("method", self.method)):
            _refuse_other_than_text(value, f"invitation: {part}")
        found = _METHOD.search(self.content)
        inside = found[1].upper() if found else ""
        if self.method and inside and self.method.upper() != inside:
            raise MessageError("invitation has a method other than the METHOD in its content")
        if not (self.method or inside):
            raise MessageError("invitation needs a METHOD line in its content, such as REQUEST")
        object.__setattr__(self, "method", (self.method or inside).upper())


def _refuse_other_than_text(value: Any, field: str) -> None:
    if not isinstance(value, str):
        raise MessageError(f"{field} must be str, not {type(value).__name__}")


def in_order(values: Any) -> Any:
    """Sort a set by its text: its own order is another in each process. All else stays."""
    if not isinstance(values, (set, frozenset)):
        return values
    return sorted(cast("set[Any]", values), key=_text)


def _text(each: Any) -> tuple[str, bytes]:
    """Give what a set is sorted by; equal text of another kind, or other data, comes second."""
    if not isinstance(each, Attachment):
        return str(each), type(each).__name__.encode()
    data = each.data.encode(errors="replace") if isinstance(each.data, str) else each.data
    named = (each.filename, each.content_type, each.cid, type(each.data).__name__)
    return str(named), data if isinstance(data, bytes) else b""


def mapped(value: Any, field: str) -> dict[Any, Any]:
    """Copy a dict, or pairs."""
    try:
        return dict(in_order(value))
    except (TypeError, ValueError):
        raise MessageError(f"{field} must be a dict, not {type(value).__name__}") from None


class Attachment:
    """A file that goes along: its bytes, its text, or an iterable of blocks of bytes.

    ``cid``: the Content-ID by which the HTML shows it, without angle brackets. The type is
    guessed from the name, else text/plain for str and application/octet-stream for the rest.
    Raises ValueError when there is no data.
    """

    cid: str | None = None  # for those that were pickled by Flask-Mail

    def __init__(  # noqa: PLR0913  Flask-Mail's five, in its order, and one of ours
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
        disposition: str | None = None,
        headers: dict[str, str] | None = None,
        *,
        cid: str | None = None,
    ) -> None:
        if data is None:
            raise ValueError("The 'data' argument is required.")
        if content_type is None and isinstance(filename, str):
            content_type = guess_type(filename)[0]
        if content_type is None:
            content_type = "text/plain" if isinstance(data, str) else "application/octet-stream"
        self.filename = filename
        self.content_type = content_type
        self.data = data
        self.disposition = disposition or ("inline" if cid else "attachment")
        self.headers: dict[str, str] = mapped(headers, "attachments: headers") if headers else {}
        self.cid = cid
