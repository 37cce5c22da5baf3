"""Files to attach: read when sealed, a path only from below the configured roots."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from flask_outbox.mail.errors import MessageError

BLOCK = 57 * 1024  # whole lines of base64, so that blocks join without padding between them


class Readable(Protocol):
    """What we need of an open file; a Werkzeug FileStorage is one."""

    def read(self, size: int = ..., /) -> bytes:
        """Give at most so many bytes."""
        ...


@dataclass(frozen=True, slots=True)
class FilePath:
    """A path; it must lead to a regular file below a root when it is read."""

    path: str

    def blocks(self, roots: Sequence[str]) -> Iterator[bytes]:
        """Open it without following a link at the last moment, and read."""
        with os.fdopen(_open_below(self.path, roots), "rb") as file:
            yield from _blocks(file)


@dataclass(frozen=True, slots=True, eq=False)
class OpenFile:
    """A file that the app opened; read from where it stood, each time, where it can seek."""

    file: Readable
    start: int | None

    @classmethod
    def at_its_place(cls, file: Readable) -> "OpenFile":
        """Keep in mind where the file stands, so that a second reading gives the same."""
        try:
            start: int = cast("Any", file).tell()
        except (AttributeError, OSError):
            return cls(file, None)
        return cls(file, start)

    def __iter__(self) -> Iterator[bytes]:
        try:
            if self.start is not None:
                cast("Any", self.file).seek(self.start)
            yield from _blocks(self.file)
        except ValueError as error:
            if isinstance(error, MessageError):
                raise
            raise MessageError(
                "attachments has a file that was closed before the message was sent;"
                " send inside the `with`, or attach a path or the bytes",
            ) from None


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        if not isinstance(block, bytes):
            raise MessageError("attachments has a file open for text; open it in mode 'rb'")
        yield block


def _open_below(path: str, roots: Sequence[str]) -> int:
    """Walk down from the root, one component at a time, following no link."""
    if os.open not in os.supports_dir_fd:
        raise MessageError("attachments has a path; on this system attach open files or bytes")
    if "\0" in path:
        raise MessageError("attachments has a path with NUL in it")
    real = os.path.realpath(path)
    for root in map(os.path.realpath, roots):
        if os.path.commonpath([root, real]) == root and real != root:
            try:
                return _walk(root, Path(real).relative_to(root).parts)
            except OSError as error:
                raise MessageError(
                    f"attachments has a file that cannot be read: {error.strerror}",
                ) from None
    raise MessageError(
        "attachments has a path outside of the folders that files may be attached from;"
        " add its folder to MAIL_ATTACHMENT_ROOTS, or attach an open file or the bytes",
    )


def _walk(root: str, steps: Sequence[str]) -> int:
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            deeper = os.open(step, flags, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(steps[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise MessageError("attachments has a path that is not a regular file")
    return file
