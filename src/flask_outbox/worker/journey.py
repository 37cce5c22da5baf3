"""The middle of a mail's journey, in order: claim → start → sign → send → record.

Open this first. A worker's thread takes one ``turn`` after another (``loop.py`` says when); it
alone talks to the database. What the far side says comes in through the ``lanes``, which carry
windows of submissions while this thread keeps the books. Whatever dies here, and wherever, the
rows tell the next worker how far each mail had come.
"""

from collections.abc import Sequence
from random import random

from flask_outbox.mail.exchange import Report
from flask_outbox.outbox.claim import claim, leave, release, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.expire import EXPIRED_MOST, expire, expire_leased
from flask_outbox.outbox.record import Recorded, record
from flask_outbox.transports.base import Signing
from flask_outbox.worker.lanes import Lanes
from flask_outbox.worker.leased import Leased


def turn(
    outbox: Outbox, leased: Leased, lanes: Lanes, sign: Signing, recorded: list[Recorded]
) -> None:
    """Take each step once; a step that has nothing to do does nothing.

    ``recorded`` gets what came of it, also of the steps before one that fails: it is committed.
    """
    # claim: what is due becomes ours until its lease ends. One commit, nothing is charged.
    hungry = leased.hungry(lanes)
    too_old = expire(outbox) if hungry else []  # what is too old by now ends instead
    recorded += too_old
    # A claim walks over what is left of that, so it waits, though not for long.
    if hungry and (len(too_old) < EXPIRED_MOST or leased.is_late):
        limit = leased.batch(lanes, hungry)
        held_back: list[str] = []
        moved: list[str] = []
        claimed = claim(
            outbox,
            transports=hungry,
            limit=limit,
            worker=leased.worker,
            routing=leased.routing,
            full=leased.full(lanes),
            failed=recorded,
            held_back=held_back,
            moved=moved,
            takes=leased.pace.takes,
        )
        leased.put(claimed, limit, hungry, held_back=len(held_back), moved=len(moved))

    # start: one small commit before the first byte, for at most a window per free lane. What missed
    # the time that a limit gave it does not go along; it gets another.
    release(outbox, leased.missed())
    windows = leased.windows(lanes)
    next_ones = [each for window in windows for each in window]
    started = start(outbox, next_ones)
    for window in leased.take(windows, started):
        # sign: once the attempt is counted, so that what kills us here is not tried for ever.
        signed = lanes.signed(window, sign)

        # send: what was on the line when a worker died goes alone, and leaves a mark first.
        lanes.send(lanes.marked(signed, lambda each: leave(outbox, each)))
    if len(started) < len(next_ones):
        recorded += expire_leased(outbox, next_ones)  # what got too old while it was ours

    # record: what the far side said; a row whose fence is no longer ours stays as it is.
    recorded += keep_books(outbox, lanes, lanes.reports())


def keep_books(outbox: Outbox, lanes: Lanes, reports: Sequence[Report]) -> list[Recorded]:
    """Record these, the first that the lanes heard; a row that somebody has holds up no other."""
    busy: list[Report] = []
    recorded = record(outbox, reports, random, busy) if reports else []
    lanes.forget(reports, busy)
    return recorded
