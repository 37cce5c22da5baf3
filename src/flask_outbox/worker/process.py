"""Worker processes: a parent that starts them, and again when one dies, and passes signals on.

The first SIGTERM or SIGINT: claim nothing more, finish what is under way within the grace. The
second: leave at once; the leases bring back what may have left. SIGHUP: replace the workers one by
one by such as read the configuration anew. A new one shows that it works before an old one is told
to retire, and that finishes what it has begun; if the new one cannot, the old ones stay.

The parent opens nothing, so that nothing is shared; when it dies itself, a pipe that only it held
open ends, and its children stop.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.worker import anew
from flask_outbox.worker.anew import Handed
from flask_outbox.worker.bell import Bell
from flask_outbox.worker.child import ABANDON, BAD_SETTING, RETIRE, STOP, be_worker
from flask_outbox.worker.plan import Plan
from flask_outbox.worker.say import say

AGAIN_FIRST = 0.5  # seconds until a worker that died is started again
AGAIN_MOST = 30.0
LIVED = 10.0  # seconds: one that lived so long did not die of how it began
ABANDON_WITHIN = 2.0  # seconds after the second signal, then the kernel sees to it
READY_WITHIN = 60.0  # seconds for a new worker to show that it works
LOOK = 1.0  # seconds, in case a signal came just before the wait for it
LOOK_READY = 0.05  # seconds, while a new worker is waited for


def run(
    make_plan: Callable[[], Plan], *, processes: int = 1, command: Sequence[str] | None = None
) -> int:
    """Run so many workers until a signal ends them; give the exit status.

    To be called in the main thread of a process with no other threads. ``make_plan`` is called in
    each worker. ``command`` starts a worker that reads the configuration anew, which then calls
    ``be_worker`` with what ``anew.handed_over`` gives; without one SIGHUP forks, and ``make_plan``
    is all that is called anew.
    """
    if processes < 1:
        raise ConfigurationError("--processes must be 1 or more")
    parent = _Parent(make_plan, command, [_Slot() for _ in range(processes)])
    before = {each: signal.signal(each, parent.hear) for each in _HEARD}
    # A child that was just forked may be told to retire before it listens.
    before[RETIRE] = signal.signal(RETIRE, signal.SIG_IGN)
    parent.minds_terminal = before[signal.SIGHUP] != signal.SIG_IGN and _has_terminal()
    try:
        return parent.run()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        parent.close()


_HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


@dataclass(slots=True)
class _Slot:
    """A place for one worker process."""

    age: int = 0  # how often it had been asked for new ones when this one was started, or kept
    reads_anew: bool = False  # the configuration, instead of having the parent's
    pid: int = 0
    began: float = 0.0
    pause: float = AGAIN_FIRST
    again_at: float = 0.0
    ready: int | None = None  # where a new one says that it works, until it does
    leaves: bool = False  # it is told to retire, and not started again

    def died(self) -> None:
        """Wait before the next one, longer if it died young."""
        now = time.monotonic()
        lived = now - self.began > LIVED
        self.pause = AGAIN_FIRST if lived else min(AGAIN_MOST, self.pause * 2)
        self.pid, self.again_at = 0, now + self.pause

    def is_ready(self) -> bool:
        """Tell whether it said so."""
        with suppress(BlockingIOError):
            return self.ready is not None and os.read(self.ready, 1) == b"1"
        return False

    def forget_ready(self) -> None:
        """Wait for it no longer."""
        if self.ready is not None:
            os.close(self.ready)
            self.ready = None


@dataclass(slots=True)
class _Parent:
    make_plan: Callable[[], Plan]
    command: Sequence[str] | None
    slots: list[_Slot]
    bell: Bell = field(default_factory=Bell)
    lifeline: tuple[int, int] = field(default_factory=os.pipe)
    folder: str = field(default_factory=anew.folder)
    minds_terminal: bool = False
    age: int = 0  # how often it was asked for new workers
    asked: int = 0  # how often it was asked to stop
    kill_at: float = float("inf")
    status: int = 0

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: note it and ring."""
        if number == signal.SIGHUP and not (self.minds_terminal and not _has_terminal()):
            self.age += 1
        elif number != signal.SIGCHLD:
            self.asked += 1
        self.bell.ring()

    def run(self) -> int:
        """Start, start again, replace, pass on; until asked to stop and the last child has gone."""
        while True:
            self._reap()
            if self.asked:
                self._pass_on()
                if not any(slot.pid for slot in self.slots):
                    return self.status
            else:
                self._replace()
                self._fill()
            look = LOOK_READY if any(slot.ready is not None for slot in self.slots) else LOOK
            waits = [slot.again_at for slot in self.slots if not slot.pid]
            self.bell.wait(max(0.0, min([look, *(at - time.monotonic() for at in waits)])))

    def close(self) -> None:
        """Let go of the pipes."""
        for each in self.lifeline:
            os.close(each)
        for slot in self.slots:
            slot.forget_ready()

    def _reap(self) -> None:
        for slot in list(self.slots):
            if not slot.pid:
                continue
            pid, code = os.waitpid(slot.pid, os.WNOHANG)
            if not pid:
                continue
            status = os.waitstatus_to_exitcode(code)
            slot.died()
            if slot.leaves:
                self.slots.remove(slot)
            elif self.asked:
                continue
            elif slot.ready is not None:
                self._give_up(slot, f"ended with status {status}")
            elif status == BAD_SETTING and not slot.reads_anew:
                self.status, self.asked = BAD_SETTING, 1
            else:
                say.error("worker process %d ended with status %d", pid, status)

    def _pass_on(self) -> None:
        """Tell the children, again and again: one that was just forked may not have heard."""
        now = time.monotonic()
        if self.asked > 1:
            self.kill_at = min(self.kill_at, now + ABANDON_WITHIN)
        told = STOP if self.asked == 1 else ABANDON
        self._tell(self.slots, signal.SIGKILL if now >= self.kill_at else told)

    @staticmethod
    def _tell(slots: Sequence[_Slot], number: int) -> None:
        for slot in slots:
            if slot.pid:
                os.kill(slot.pid, number)

    def _fill(self) -> None:
        now = time.monotonic()
        for slot in self.slots:
            if not slot.pid and now >= slot.again_at:
                self._start(slot, Handed(self.lifeline[0]))

    def _start(self, slot: _Slot, handed: Handed) -> None:
        slot.began = time.monotonic()
        slot.pid = os.fork() or self._be_child(slot, handed)
        say.info("worker process %d started", slot.pid)

    def _be_child(self, slot: _Slot, handed: Handed) -> NoReturn:
        """Be a worker of the configuration that the parent was started with, or of today's."""
        os.close(self.lifeline[1])
        try:
            if slot.reads_anew and self.command:
                anew.begin(self.command, self.folder, handed)
        except OSError as error:
            say.error("%s cannot be started: %s", self.command, error.strerror)
            os._exit(1)
        be_worker(self.make_plan, handed)

    # --- new for old ---

    def _replace(self) -> None:
        """Start a new worker; once it works, tell an old one to retire; and so on."""
        self._tell([slot for slot in self.slots if slot.leaves], RETIRE)
        new = next((slot for slot in self.slots if slot.ready is not None), None)
        if new is None:
            if any(slot.age < self.age and not slot.leaves for slot in self.slots):
                self._start_new()
        elif new.is_ready():
            new.forget_ready()
            self._retire_one_older_than(new)
        elif time.monotonic() > new.began + READY_WITHIN:
            self._tell([new], STOP)
            new.leaves = True
            self._give_up(new, f"did not begin within {READY_WITHIN:g} s")

    def _start_new(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        slot = _Slot(self.age, reads_anew=True, ready=reading)
        self.slots.append(slot)
        self._start(slot, Handed(self.lifeline[0], writing))
        os.close(writing)

    def _retire_one_older_than(self, new: _Slot) -> None:
        older = [slot for slot in self.slots if slot.age < new.age and not slot.leaves]
        old = min(older, key=lambda slot: slot.pid)  # one that is dead anyway, if there is one
        say.info("worker process %d takes the place of %d", new.pid, old.pid)
        old.leaves = True
        if not old.pid:
            self.slots.remove(old)

    def _give_up(self, new: _Slot, why: str) -> None:
        """Let the old workers stay, until asked again."""
        say.error(
            "the new worker process %s: those that run go on with the configuration that they have;"
            " mend it and send SIGHUP again",
            why,
        )
        new.forget_ready()
        if not new.leaves:
            self.slots.remove(new)
        for slot in self.slots:
            slot.age = max(slot.age, new.age)
