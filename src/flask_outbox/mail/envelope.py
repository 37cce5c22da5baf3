"""What goes beside the content: options of the envelope, and words for the outbox and providers."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from flask_outbox.mail.address import parse_address, refuse_control_characters
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.errors import BadHeaderError, MessageError
from flask_outbox.mail.limits import Limits, check_words
from flask_outbox.mail.submission import ROW, Dsn

_ASKED = frozenset({"SUCCESS", "FAILURE", "DELAY"})


def read_options(values: Sequence[str], field: str, limits: Limits) -> tuple[str, ...]:
    """Check ESMTP parameters: each is one word of printable ASCII."""
    if not values:
        return ()
    if isinstance(values, str):
        raise MessageError(f"{field} must be a list; write {field}=[...] around the option")
    for value in values:
        text = refuse_control_characters(value, field)
        if not text.isascii() or not text or " " in text or "\t" in text:
            raise BadHeaderError(f"{field} must be words of printable ASCII, one option each")
    check_words(values, field, limits)
    return tuple(in_order(values))


def read_tags(values: Any, limits: Limits) -> tuple[str, ...]:
    """Check the words that a provider files it under; a repeated one counts once."""
    tags = tuple(dict.fromkeys([_plain(tag, "tags") for tag in in_order(values)]))
    check_words(tags, "tags", limits)
    return tags


def _plain(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{field} must be str, not {type(value).__name__}")
    return refuse_control_characters(value, field)


def read_metadata(values: Any, limits: Limits) -> dict[str, str]:
    """Check what it is to be found by again."""
    read = {_plain(key, "metadata"): _plain(value, "metadata") for key, value in values.items()}
    if ROW in read:
        raise MessageError(f"metadata: {ROW!r} is the id that we add; choose another name")
    check_words([key + value for key, value in read.items()], "metadata", limits)
    return read


def read_dsn(dsn: Dsn, recipients: Sequence[str]) -> Dsn:
    """Check a request for notifications; its addresses become canonical (RFC 3461)."""
    notify: dict[str, tuple[str, ...]] = {}
    asked: Any = dsn.notify
    if not isinstance(asked, Mapping):
        raise MessageError("dsn: notify must be a dict from recipient to a list of words")
    pairs: Mapping[Any, Any] = asked  # pyright: ignore[reportUnknownVariableType]
    for key, words in pairs.items():
        addr = key if key == "*" else parse_address(key, "dsn: notify").addr
        if addr != "*" and addr not in recipients:
            raise MessageError("dsn: notify names an address that is not a recipient")
        several = cast("Sequence[Any]", words) if isinstance(words, (list, tuple)) else ()
        wanted = tuple(str(word).upper() for word in several)
        if not wanted or (wanted != ("NEVER",) and not _ASKED.issuperset(wanted)):
            raise MessageError("dsn: notify must be NEVER alone, or of SUCCESS, FAILURE, DELAY")
        notify[addr] = wanted
    if dsn.ret not in (None, "FULL", "HDRS"):
        raise MessageError("dsn: ret must be FULL or HDRS")
    if dsn.envid is not None:
        refuse_control_characters(dsn.envid, "dsn: envid")
        if not (dsn.envid.isascii() and 0 < len(dsn.envid) <= 100):  # noqa: PLR2004  RFC 3461 section 5.4
            raise BadHeaderError("dsn: envid must be printable ASCII, of at most 100 characters")
    return Dsn(notify=notify, ret=dsn.ret, envid=dsn.envid)
