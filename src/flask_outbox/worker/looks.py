"""When a worker that has nothing to do asks the outbox again."""

import time
from collections.abc import Sequence

from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.rates import AHEAD
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.record import Recorded
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased
from flask_outbox.worker.ways import Ways

NAMES_EVERY = 0.05  # seconds: who else has mail is asked no more often, whatever there is to do
POLL_STEPS = 16  # after work the next look comes after this share of `poll`, then twice that, …
OVERDUE = 0.05  # seconds: what fell due after the claim, or is held back by a route on probation
IN_TIME = AHEAD / 4  # seconds: for what a rate lets go by and by
STAYS_FOR = 1.0  # seconds: a drain stays for what a rate lets go within
IN_VAIN_MOST = 3

NEVER = float("inf")


class Looks:
    """Says when; the claim looks as soon as the leased are not dry.

    Only the worker's thread touches it, but for ``wake``. ``poll`` is in seconds, all times are
    monotonic.
    """

    def __init__(
        self, outbox: Outbox, ways: Ways, poll: float, leased: Leased, lanes: Lanes
    ) -> None:
        self._outbox = outbox
        self._ways = ways
        self._poll = poll
        self._leased = leased
        self._lanes = lanes
        self._look_at = 0.0
        self._names_at = 0.0  # when it may be asked again who else has mail
        self.is_curious = ways.loads  # that is yet to be asked
        self.has_more = False  # that a rate lets go soon
        self._pause = poll / POLL_STEPS
        self._is_paced = outbox.rates.are_set
        self._frees = outbox.rates.are_of_number
        self._in_vain = 0  # looks in a row for what was due and could not be had
        self._was_dry = False
        self._woken = False

    def wake(self) -> None:
        """Have the next turn look, whatever was said before."""
        self._woken = True

    @property
    def at(self) -> float:
        """When the next turn has something to ask, if nobody rings."""
        if not self._leased.dry:
            return NEVER
        return min(self._look_at, self._names_at if self.is_curious else NEVER)

    def before_turn(self) -> None:
        """Where it is time to, ask anew for what is configured, and who else has mail."""
        now = time.monotonic()
        if self._woken or now >= self._look_at:
            self._woken = False
            self._leased.ask_anew()
            self.is_curious = self._ways.loads
        # What is recorded puts off the look time and again.
        if now >= self._names_at + (0.0 if self.is_curious else self._poll):
            self._leased.join(self._ways.due(self._outbox))
            self.is_curious = False
            self._names_at = now + NAMES_EVERY
        self._was_dry = self._leased.dry

    def after_turn(self, recorded: Sequence[Recorded]) -> None:
        """Take in what the turn came to."""
        if self._leased.dry and not self._was_dry:
            self._look_at = time.monotonic() + self._next_look()
        if recorded and (not self._is_paced or self._frees or any(map(_is_due_again, recorded))):
            self._leased.ask_anew()  # what one outcome held back, by its route or row, may go now
            self.is_curious = self._ways.loads

    def _next_look(self) -> float:
        """Tell in how many seconds to ask the outbox again: when the next is due, or as polled."""
        brought, self.has_more = self._leased.brought, False
        self._pause = self._poll / POLL_STEPS if brought else min(self._poll, self._pause * 2)
        if brought and not self._is_paced:
            self._in_vain = 0
            return self._pause
        wait = self._until_due()
        if wait is None:
            return self._pause
        in_vain = not brought and wait <= 0.0 and not (self._is_paced and self._lanes.busy)
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._is_paced:
            self.has_more = wait < STAYS_FOR and self._in_vain < IN_VAIN_MOST
            return max(IN_TIME, min(self._pause, wait))
        if wait <= 0.0:  # who holds it back, a probe or a full route, rings when that is over
            wait = OVERDUE * 2.0 ** min(self._in_vain, 16)
        return min(self._pause, wait)

    def _until_due(self) -> float | None:
        """Tell in how many seconds the next is due; None where nothing is."""
        due = self._ways.next_due(self._outbox)
        if due is None:
            return None
        with self._outbox.read() as connection:
            return due - self._outbox.now(connection)


def _is_due_again(recorded: Recorded) -> bool:
    return recorded.state is State.QUEUED
