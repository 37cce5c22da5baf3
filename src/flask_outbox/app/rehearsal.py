"""What send_later does where nothing may go out: the rows stay in memory, to be looked at.

Under TESTING and where sending is suppressed. No thread, no file; the last thousand are kept, and
while the pytest fixture is in use, all of them.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flask_outbox.app.preparing import own_copy
from flask_outbox.mail.errors import KeyConflict
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.message import Message
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.schedule import Schedule

if TYPE_CHECKING:
    from flask_outbox.outbox.status import Status

MOST = 1000


class Everywhere:
    """Whether all apps of this process rehearse: while the pytest fixture is in use."""

    depth = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """A message that send_later would have written down."""

    id: str
    message: Message
    submission: Submission
    schedule: Schedule
    created_at: float
    state: State = State.QUEUED
    ended_at: float | None = None
    held: bool = False  # until the session that it was written by is committed

    @property
    def due_at(self) -> float:
        """When it would go, in UNIX seconds."""
        return self.schedule.due(self.created_at)

    @property
    def expires_at(self) -> float | None:
        """From when on it would not."""
        return self.schedule.end(self.due_at)


class Rehearsal:
    """The outbox that is none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, Rehearsed] = {}

    def add(
        self, message: Message, submission: Submission, schedule: Schedule, *, held: bool = False
    ) -> tuple[str, bool]:
        """Keep it and give its id, and whether it is new; a ``key`` works as in the outbox.

        ``held``: nobody sees it, until ``keep`` or ``forget`` is called.
        """
        with self._lock:
            for row in self._rows.values():
                if schedule.key is not None and row.schedule.key == schedule.key:
                    if row.schedule.fingerprint != schedule.fingerprint:
                        raise KeyConflict("This key= was used before, for other content.")
                    return row.id, False
            now = time.time()
            number = f"{int(now * 1000) & (1 << 48) - 1:012x}7{os.urandom(10).hex()[:19]}"
            self._rows[number] = Rehearsed(
                id=number,
                message=own_copy(message),  # as it is now, whatever its app does with it
                submission=replace(submission, id=number),
                schedule=schedule,
                created_at=now,
                held=held,
            )
            self._trim()
            return number, True

    def keep(self, row: str) -> None:
        """Let be seen what was held."""
        with self._lock:
            if (found := self._rows.get(row)) is not None:
                self._rows[row] = replace(found, held=False)

    def forget(self, row: str) -> None:
        """Undo it."""
        with self._lock:
            self._rows.pop(row, None)

    def trim(self) -> None:
        """Forget the oldest beyond the number that is kept; nothing while the fixture is in use."""
        with self._lock:
            self._trim()

    def _trim(self) -> None:
        if Everywhere.depth == 0:
            for number in list(self._rows)[:-MOST]:
                del self._rows[number]

    def rows(self) -> list[Rehearsed]:
        """List what is kept, the oldest first."""
        with self._lock:
            return [row for row in self._rows.values() if not row.held]

    def get(self, row: str) -> Rehearsed | None:
        """Look one up."""
        with self._lock:
            found = self._rows.get(row)
            return None if found is None or found.held else found

    def knows(self, row: str) -> bool:
        """Tell whether it is kept, also where it is held."""
        with self._lock:
            return row in self._rows

    def cancel(self, row: str) -> bool:
        """Take back what is still queued."""
        with self._lock:
            found = self._rows.get(row)
            if found is None or found.state is not State.QUEUED:
                return False
            self._rows[row] = replace(found, state=State.CANCELLED)
            return True

    def restore(self, row: str) -> None:
        """Undo that it was taken back."""
        with self._lock:
            found = self._rows.get(row)
            if found is not None and found.state is State.CANCELLED:
                self._rows[row] = replace(found, state=State.QUEUED)

    def drain(self, at: float, seen: Callable[[Rehearsed], None]) -> int:
        """Let happen what would have happened by then, in order; tell how many went out."""
        with self._lock:
            due = sorted(
                (row for row in self._rows.values() if row.state is State.QUEUED and not row.held),
                key=lambda row: row.due_at,
            )
            went: list[Rehearsed] = []
            for row in due:
                if row.due_at > at:
                    break
                late = row.expires_at is not None and row.expires_at <= row.due_at
                ended = replace(row, state=State.EXPIRED if late else State.ACCEPTED, ended_at=at)
                self._rows[row.id] = ended
                if not late:
                    went.append(ended)
        for row in went:
            seen(row)
        return len(went)

    def status(self, row: str) -> "Status | None":
        """Say of it what the outbox would."""
        found = self.get(row)
        return None if found is None else _status(found)


def _status(row: Rehearsed) -> "Status":
    from flask_outbox.outbox.status import Recipient, Status  # noqa: PLC0415  brings SQLAlchemy

    due = row.due_at if row.state is State.QUEUED else None
    gone = int(row.state is State.ACCEPTED)
    return Status(
        id=row.id,
        message_id=row.submission.message_id,
        state=row.state,
        reason="",
        recipients=tuple(
            Recipient(
                address=address,
                state=row.state,
                attempts=gone,
                unclear=0,
                due_at=due,
                reply="",
                reference="",
            )
            for address in row.submission.recipients
        ),
        transport=row.submission.transport,
        route="",
        priority=row.schedule.priority,
        sender=row.submission.sender,
        size=len(row.submission.content),
        key=row.schedule.key,
        attempts=gone,
        crashes=0,
        created_at=row.created_at,
        due_at=due,
        expires_at=row.expires_at,
        started_at=row.ended_at if gone else None,
        ended_at=row.ended_at,
        worker="",
    )
