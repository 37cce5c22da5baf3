"""Ways out that end on this machine: for development and tests.

The one file on this floor that prints and writes files. Each takes whatever it is given.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from flask_outbox.mail.exchange import Conversation, Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.mail.unseal import unseal
from flask_outbox.transports.base import Carries

_UNFIT = re.compile(r"[^A-Za-z0-9.-]+")
_CARRIES = Carries(window=1, dsn=True, provider=None, opens=True, clicks=True)


def _each(submissions: Iterable[Submission], take: Callable[[Submission], Outcome]) -> Conversation:
    for submission in submissions:
        yield Report(submission, Receipt.same(submission, take(submission)))


class Null:
    """Takes everything and keeps nothing."""

    name = "null"
    carries = _CARRIES

    def __repr__(self) -> str:
        return "<Null>"

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Forget them."""
        return _each(submissions, lambda _: Accepted("forgotten"))


class Memory:
    """Keeps what was sent in ``sent``, oldest first."""

    name = "memory"
    carries = _CARRIES

    def __init__(self) -> None:
        self.sent: list[Submission] = []

    def __repr__(self) -> str:
        return f"<Memory {len(self.sent)} sent>"

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Keep them."""
        return _each(submissions, self._take)

    def _take(self, submission: Submission) -> Outcome:
        self.sent.append(submission)
        return Accepted("kept in memory")


class Console:
    """Prints what would go out: envelope, header, text. Nothing is hidden: for development."""

    name = "console"
    carries = _CARRIES

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write or _print

    def __repr__(self) -> str:
        return "<Console>"

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Print them."""
        return _each(submissions, self._take)

    def _take(self, submission: Submission) -> Outcome:
        try:
            self._write(readable(submission))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            return _not_written("the console", error)
        return Accepted("printed")


def _print(text: str) -> None:
    stream = sys.stdout  # looked up each time: test runners exchange it
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def readable(submission: Submission) -> str:
    """Write it as a person would like to read it."""
    parts = unseal(submission.content)
    named = {
        "From": [parts.sender],
        "To": parts.to,
        "Cc": parts.cc,
        "Subject": [parts.subject],
    }
    lines = [
        f"---- {submission.message_id} ".ljust(78, "-"),
        f"Envelope: <{submission.sender}> to {', '.join(submission.recipients)}",
        *(f"{name}: {', '.join(map(str, what))}" for name, what in named.items() if any(what)),
        *(f"{name}: {value}" for name, value in parts.headers),
        "",
        (parts.text or parts.html or "").rstrip("\n"),
        *(f"[attached: {each.filename or each.content_type}]" for each in parts.attachments),
        "-" * 78,
        "",
    ]
    return "\n".join(lines)


class Folder:
    """Writes each submission into a file of its own, whole or not at all.

    An ``.eml`` file holds the sealed bytes as they are, so Bcc is not in it. ``maildir``: a
    Maildir, whose readers want LF and who it was for: ``Return-Path`` and ``Delivered-To`` lead.
    """

    name = "folder"
    carries = _CARRIES

    def __init__(self, path: str | os.PathLike[str], *, maildir: bool = False) -> None:
        self._path = Path(path)
        self._maildir = maildir
        if maildir:
            self.name = "maildir"

    @property
    def identity(self) -> str:
        """The folder."""
        return str(self._path)

    def __repr__(self) -> str:
        return f"<Folder {str(self._path)!r}{' as a Maildir' * self._maildir}>"

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Write them."""
        return _each(submissions, self._take)

    def _take(self, submission: Submission) -> Outcome:
        try:
            if self._maildir:
                name = f"{int(submission.date)}.{token_hex(8)}.outbox"
                self._make("tmp", "new", "cur")
                self._write(self._path / "tmp" / name, self._path / "new" / name, _lf(submission))
            else:
                name = f"{_stamp(submission.date)}-{_plain(submission.message_id)}-{token_hex(4)}"
                self._make("")
                end = self._path / f"{name}.eml"
                self._write(self._path / f".{name}.tmp", end, submission.content)
        except OSError as error:
            return _not_written(f"the folder {self._path}", error)
        return Accepted("written", name)

    def _make(self, *below: str) -> None:
        for name in below:
            (self._path / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _write(self, draft: Path, end: Path, content: bytes) -> None:
        """Write, sync, rename, sync the folder: a file that is there is whole, and stays."""
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(end)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        _sync_folder(end.parent)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not every system can
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lf(submission: Submission) -> bytes:
    lead = [f"Return-Path: <{submission.sender}>"]
    lead += [f"Delivered-To: {recipient}" for recipient in submission.recipients]
    return "\n".join((*lead, "")).encode() + submission.content.replace(b"\r\n", b"\n")


def _stamp(date: float) -> str:
    return datetime.fromtimestamp(date, UTC).strftime("%Y%m%dT%H%M%S")


def _plain(text: str) -> str:
    return _UNFIT.sub("_", text.strip("<>"))[:80].lstrip(".-_") or "message"


def _not_written(what: str, error: Exception) -> Deferred:
    why = error.strerror if isinstance(error, OSError) else None
    return Deferred(f"{what} could not be written: {why or type(error).__name__}", Fault.OURS)
