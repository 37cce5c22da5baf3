"""Random walks: whatever happens in whatever order, the rows keep their word."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from contract.outbox_ground import Ground
from flask_outbox.mail.lifecycle import TRANSITIONS, State, summary
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.outbox.claim import extend, has_open, leave, reclaim, release, start
from flask_outbox.outbox.enqueue import Priority
from flask_outbox.outbox.expire import expire_leased
from flask_outbox.outbox.status import cancel, list_messages, retry
from flask_outbox.outbox.tables import message
from outbox_mail import ADA, BOB, CYD, Clock, a_submission, empty, put, say, take

OUTCOMES = [
    Accepted("250", "ref"),
    Refused("550"),
    Unclear("no answer"),
    Deferred("451"),
    Deferred("broke", Fault.NONE),
    Deferred("535", Fault.OURS),
]
STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        st.sampled_from([(ADA,), (ADA, BOB), (ADA, BOB, CYD)]),
        st.sampled_from(list(Priority)),
        st.booleans(),
        st.sampled_from([None, None, 5.0, 300.0]),
    ),
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("start"), st.integers(0, 5)),
    st.tuples(st.just("expire"), st.integers(0, 5)),
    st.tuples(st.just("leave"), st.integers(0, 5)),
    st.tuples(st.just("extend"), st.integers(0, 5)),
    st.tuples(st.just("release"), st.integers(0, 5)),
    st.tuples(
        st.just("say"),
        st.integers(0, 5),
        st.lists(st.sampled_from(OUTCOMES), min_size=3, max_size=3),
    ),
    st.tuples(st.just("tick"), st.sampled_from([0.5, 10.0, 31.0, 400.0, 30_000.0, -100.0, -9e6])),
    st.tuples(st.just("reclaim")),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("retry"), st.integers(0, 5)),
)


class Walk:
    """A world of one outbox, with everything that anybody in it still holds, zombies included."""

    def __init__(self, outbox, clock):
        self.outbox, self.clock = outbox, clock
        empty(outbox)
        self.held, self.ids = [], []
        self.seen: dict[tuple[str, str], State] = {}
        self.sent_to: set[tuple[str, str]] = set()

    def pick(self, number):
        return self.held[number % len(self.held)] if self.held else None

    def put(self, whom, priority, once, lifetime):
        sealed = a_submission(*whom, at_most_once=once)
        expires = None if lifetime is None else self.clock.now + lifetime
        self.ids.append(put(self.outbox, sealed, priority=priority, expires=expires))

    def take(self, limit):
        for each in take(self.outbox, limit):
            assert each.recipients
            for whom in each.recipients:
                assert (each.id, whom) not in self.sent_to, "an accepted recipient is sent to again"
            self.held.append(each)

    def start(self, number):
        if (each := self.pick(number)) is not None:
            started = start(self.outbox, [each])
            assert all(one.attempt >= 1 for one in started)

    def expire(self, number):
        if (each := self.pick(number)) is not None:
            expire_leased(self.outbox, [each])

    def leave(self, number):
        if (each := self.pick(number)) is not None:
            leave(self.outbox, each)

    def extend(self, number):
        if (each := self.pick(number)) is not None:
            extend(self.outbox, [each])

    def release(self, number):
        if (each := self.pick(number)) is not None:
            release(self.outbox, [each])

    def say(self, number, outcomes):
        if (each := self.pick(number)) is None:
            return
        receipt = dict(zip(each.recipients, outcomes, strict=False))
        if not start(self.outbox, [each]):
            expire_leased(self.outbox, [each])
            assert say(self.outbox, each, receipt) == []
            return
        (recorded,) = say(self.outbox, each, receipt)
        self.sent_to |= {(each.id, whom) for whom in recorded.receipt.accepted}

    def tick(self, seconds):
        self.clock.now += seconds

    def reclaim(self):
        reclaim(self.outbox)

    def cancel(self, number):
        if self.ids:
            cancel(self.outbox, self.ids[number % len(self.ids)])

    def retry(self, number):
        if self.ids:
            retry(self.outbox, self.ids[number % len(self.ids)])

    def check(self):
        found = {each.id: each for each in list_messages(self.outbox, limit=1000)}
        assert set(found) == set(self.ids), "a row is lost"
        with self.outbox.read() as connection:
            rows = connection.execute(select(message)).all()
        for row in rows:
            state = State(row.state)
            assert state is summary(each.state for each in found[row.id].recipients)
            assert (row.due_at is not None) == (state is State.QUEUED)
            assert (row.fence is not None) == (state is State.SENDING)
            assert (row.lease_until is not None) == (state is State.SENDING)
            assert (row.ended_at is None) == (state in {State.QUEUED, State.SENDING})
            assert state is State.SENDING or (row.started_at, row.left_at) == (None, None)
            assert row.attempts >= 0
            for each in found[row.id].recipients:
                self.came_lawfully((row.id, each.address), each.state)
                assert (each.due_at is not None) == (each.state in {State.QUEUED, State.SENDING})
                assert each.state is not State.EXPIRED or not each.unclear
        assert has_open(self.outbox, ["default"]) == any(
            State(row.state) in {State.QUEUED, State.SENDING} for row in rows
        )

    def came_lawfully(self, whom, after):
        before = self.seen.get(whom, State.QUEUED)
        # One step may take a state and come back to the same, or pass through one on its way.
        two = {far for near in TRANSITIONS[before] for far in TRANSITIONS[near]}
        assert after is before or after in TRANSITIONS[before] | two
        self.seen[whom] = after
        if whom in self.sent_to:
            assert after is State.ACCEPTED

    def ends(self):
        """With a far side that accepts everything, whatever is open comes to its end."""
        for _ in range(12):
            self.clock.now += 90_000.0
            reclaim(self.outbox)
            while claimed := take(self.outbox):
                for each in start(self.outbox, claimed):
                    say(self.outbox, each, Accepted("250"))
        assert not has_open(self.outbox, ["default"])


class WalkContract(Ground):
    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(steps=st.lists(STEPS, max_size=40))
    def test_no_order_of_events_loses_a_row_or_sends_to_the_accepted_again(
        self, make_outbox, steps
    ):
        clock = Clock()
        walk = Walk(make_outbox(clock=clock), clock)
        for step, *terms in steps:
            getattr(walk, step)(*terms)
            walk.check()
        walk.ends()
        walk.check()
