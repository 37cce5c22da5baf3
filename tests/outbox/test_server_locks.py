"""Two who meet at the same rows: who locks several does it in one order, or leaves them alone.

The order is messages, their recipients, routes, limits, and within each by the primary key.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import delete, insert, select, update

from database_fixtures import KINDS
from flask_outbox.mail.exchange import Report
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred
from flask_outbox.mail.rates import SLOWED_FIRST, Limit, Meter, Rates
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox import rates
from flask_outbox.outbox.claim import extend, reclaim
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.prune import Keep, Pruned, pieces
from flask_outbox.outbox.rates import IDLE, forget_idle, locked
from flask_outbox.outbox.record import record
from flask_outbox.outbox.routes import probe_now, routes
from flask_outbox.outbox.stats import stats
from flask_outbox.outbox.status import cancel_within
from flask_outbox.outbox.tables import content, message, rate, recipient, route
from heard import heard
from outbox_mail import (
    ADA,
    BOB,
    EPOCH,
    Clock,
    a_submission,
    begin,
    look,
    put,
    put_many,
    say,
    take,
)
from worker_stage import wait_for

DAY = 86400.0
ACCEPTED = Accepted("250")
BUSY = Deferred("421 4.7.0 too fast")


@pytest.fixture(params=KINDS[1:])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def outbox(server, clock):
    url = server.new()
    Outbox(url).upgrade()
    outbox = Outbox(url, busy=5.0, clock=clock)
    yield outbox
    outbox.close()


@pytest.fixture
def other():
    with ThreadPoolExecutor(1) as others:
        yield others


def meets(server, future):
    """Wait until it has to wait for us, or is over."""
    wait_for(lambda: future.done() or server.waits())


def hold(connection, *ids):
    query = select(message.c.id).where(message.c.id.in_(ids)).order_by(message.c.id)
    assert len(connection.execute(query.with_for_update()).all()) == len(ids)


def in_one(outbox, do, *terms):
    with outbox.begin() as connection:
        return do(connection, *terms)


# --- what is forgotten ---


def test_who_does_not_have_the_first_of_a_piece_takes_nothing_of_it(outbox, clock, other):
    ids = put_many(outbox, 3)
    for each in begin(outbox):
        say(outbox, each, Accepted("250"))
    clock.now += 2 * DAY
    keep = Keep(content=DAY, rows=DAY)
    with outbox.begin() as connection:
        hold(connection, ids[0])
        assert other.submit(list, pieces(outbox, keep)).result(20) == [Pruned(), Pruned()]
        hold(connection, *ids)
    assert list(pieces(outbox, keep)) == [Pruned(contents=3), Pruned(messages=3)]


@pytest.mark.parametrize("count", [3, 300])
def test_a_limit_that_somebody_has_is_not_forgotten_nor_waited_for(outbox, clock, other, count):
    names = [f"{number:03}" for number in range(count)]
    idle_limits(outbox, clock, *names)
    theirs = names[count // 2]
    with outbox.begin() as connection:
        assert locked(connection, {theirs: Limit(1.0)}, clock.now, ())
        forgets = other.submit(in_one, outbox, forget_idle, clock.now)
        assert forgets.result(20) == count - 1
    with outbox.read() as connection:
        assert connection.execute(select(rate.c.name)).scalars().all() == [theirs]


def test_who_forgets_limits_and_who_needs_several_lock_in_one_order(outbox, server, clock, other):
    idle_limits(outbox, clock, "b", "a")
    with outbox.begin() as connection:
        assert locked(connection, {"a": Limit(1.0)}, clock.now, ())
        forgets = other.submit(in_one, outbox, forget_idle, clock.now)
        meets(server, forgets)
        assert "a" in locked(connection, {"a": Limit(1.0), "b": Limit(1.0)}, clock.now, ())
    assert forgets.result(20) <= 1


def idle_limits(outbox, clock, *names):
    """Make them, one after another: so they lie in a PostgreSQL's table."""
    for name in names:
        with outbox.begin() as connection:
            connection.execute(insert(rate), [rates._row(Meter(name), EPOCH)])
    clock.now = EPOCH + IDLE + 1.0


@contextmanager
def forgotten_before_it_is_locked(outbox, now, other):
    """Let a prune come in between somebody's look at the limits and their lock."""
    ours, tried = threading.get_ident(), []

    def hear(statement, _terms):
        locks = "FOR UPDATE" in statement and "outbox_rate" in statement
        if locks and threading.get_ident() == ours and not tried:
            tried.append(other.submit(in_one, outbox, forget_idle, now).result(20))

    with heard(outbox, hear):
        yield


def test_a_domain_is_slowed_though_its_limit_was_forgotten_just_now(outbox, clock, other):
    idle_limits(outbox, clock, "to example.org by default")
    put(outbox)
    (begun,) = begin(outbox)
    with forgotten_before_it_is_locked(outbox, clock.now, other):
        assert len(say(outbox, begun, BUSY)) == 1
    (found,) = stats(outbox).slowed
    assert found.rate == pytest.approx(SLOWED_FIRST)


def test_a_claim_keeps_to_a_limit_that_was_forgotten_just_now(outbox, clock, other):
    outbox.rates = Rates(domains={"*": 1.0})
    put_many(outbox, 5)
    idle_limits(outbox, clock, "to example.org by default")
    with forgotten_before_it_is_locked(outbox, clock.now, other):
        assert len(take(outbox)) == 1


# --- routes ---


def test_who_ends_all_pauses_and_who_records_news_lock_in_one_order(outbox, server, clock, other):
    for name in ("b", "a"):
        with outbox.begin() as connection:
            terms = {"failures": 1, "unclear": 0, "reason": "", "paused_at": EPOCH}
            connection.execute(insert(route), [{"name": name, "paused_until": EPOCH + 9, **terms}])
    with outbox.begin() as connection:
        routes(connection, ["a"], lock=True)
        probes = other.submit(in_one, outbox, probe_now, clock.now + 1)
        meets(server, probes)
        assert not probes.done()
        assert len(routes(connection, ["a", "b"], lock=True)) == 2
    probes.result(20)
    with outbox.read() as connection:
        found = routes(connection, ["a", "b"])
    assert [each.paused_until for each in found.values()] == [EPOCH + 1] * 2


# --- what a clock that was set back left behind ---


@pytest.fixture(params=["fresh", "deferred"])
def from_the_future(request, outbox, clock):
    ids = [put(outbox, a_submission(ADA, BOB)) for _ in range(3)]
    if request.param == "deferred":
        for each in begin(outbox):
            say(outbox, each, Deferred("451 later"))
    clock.now -= 3600.0
    return ids


def test_who_brings_due_times_back_leaves_what_another_has(
    outbox, server, clock, other, from_the_future
):
    theirs, *rest = from_the_future
    before = look(outbox, theirs)
    with outbox.begin() as connection:
        hold(connection, theirs)
        mends = other.submit(reclaim, outbox)
        meets(server, mends)
        its = update(recipient).where(recipient.c.message == theirs)
        assert connection.execute(its.values(reply="as a cancel would")).rowcount == 2
    assert mends.result(20) == []
    assert look(outbox, theirs).due_at == before.due_at
    assert {look(outbox, each).due_at < clock.now + 3000.0 for each in rest} == {True}
    reclaim(outbox)
    assert look(outbox, theirs).due_at == look(outbox, rest[0]).due_at


def test_two_who_bring_due_times_back_do_so_together(outbox, from_the_future):
    with ThreadPoolExecutor(4) as several:
        runs = [several.submit(reclaim, outbox) for _ in range(12)]
    assert [each.result() for each in runs] == [[]] * 12
    assert len({look(outbox, each).due_at for each in from_the_future}) == 1


# --- what a worker has under way ---


def reports(begun, outcome=ACCEPTED):
    return [Report(each, Receipt.same(each, outcome)) for each in begun]


def tell(outbox, begun, outcome=ACCEPTED):
    """Record it as a worker does; give the ids that are recorded, and those that somebody has."""
    busy = []
    recorded = record(outbox, reports(begun, outcome), lambda: 0.5, busy)
    assert len({each.submission.id for each in busy}) == len(busy)
    return [{each.submission.id for each in some} for some in (recorded, busy)]


def lease_of(outbox, id_):
    with outbox.read() as connection:
        query = select(message.c.lease_until).where(message.c.id == id_)
        return connection.execute(query).scalar_one()


@pytest.mark.parametrize("outcome", [ACCEPTED, BUSY, Deferred("451 later")])
@pytest.mark.parametrize("count", [2, 60])
def test_a_row_that_somebody_has_is_recorded_later_and_the_others_now(
    outbox, other, count, outcome
):
    put_many(outbox, count)
    begun = begin(outbox)
    ids = {each.id for each in begun}
    theirs = begun[count // 2].id
    with outbox.begin() as connection:
        hold(connection, theirs)
        done, busy = other.submit(tell, outbox, begun, outcome).result(20)
        assert (done, busy) == (ids - {theirs}, {theirs})
    assert look(outbox, theirs).state is State.SENDING
    assert tell(outbox, begun, outcome) == [{theirs}, set()]
    assert {look(outbox, each).attempts for each in ids} == {1}


def test_what_was_begun_again_is_recorded_beside_a_row_that_somebody_has(outbox, clock, other):
    put_many(outbox, 3)
    for each in begin(outbox):
        say(outbox, each, Deferred("451 later"))
    clock.now += DAY / 4
    begun = begin(outbox)
    with outbox.begin() as connection:
        hold(connection, begun[0].id)
        done, busy = other.submit(tell, outbox, begun).result(20)
    assert (done, busy) == ({each.id for each in begun[1:]}, {begun[0].id})


def test_a_row_that_is_gone_or_lost_is_not_said_to_be_somebodys(outbox, clock, other):
    put_many(outbox, 3)
    begun = begin(outbox)
    gone, lost, ours = (each.id for each in begun)
    clock.now += 2 * outbox.lease
    with outbox.begin() as connection:
        hold(connection, gone, ours)
        assert len(other.submit(reclaim, outbox).result(20)) == 1
        for table in (recipient.c.message, content.c.message, message.c.id):
            connection.execute(delete(table.table).where(table == gone))
    with outbox.begin() as connection:
        hold(connection, lost)
        assert other.submit(tell, outbox, begun).result(20) == [{ours}, set()]


def test_a_row_that_was_lost_does_not_have_us_wait_for_one_that_somebody_has(outbox, clock, other):
    put_many(outbox, 3)
    begun = begin(outbox)
    lost, theirs, ours = (each.id for each in begun)
    clock.now += 2 * outbox.lease
    with outbox.begin() as connection:
        hold(connection, theirs, ours)
        assert [each.submission.id for each in other.submit(reclaim, outbox).result(20)] == [lost]
    with outbox.begin() as connection:
        hold(connection, theirs)
        assert other.submit(tell, outbox, begun).result(20) == [{ours}, {theirs}]


def test_who_keeps_no_reports_waits_for_a_row_that_somebody_has(outbox, server, other):
    put_many(outbox, 2)
    begun = begin(outbox)
    with outbox.begin() as connection:
        hold(connection, begun[0].id)
        records = other.submit(record, outbox, reports(begun), lambda: 0.5)
        meets(server, records)
        assert not records.done()
    assert len(records.result(20)) == 2


@pytest.mark.parametrize("count", [2, 60])
def test_leases_are_renewed_beside_a_row_that_somebody_has(outbox, clock, other, count):
    put_many(outbox, count)
    begun = begin(outbox)
    theirs, *rest = (each.id for each in begun)
    before = lease_of(outbox, theirs)
    clock.now += 10.0
    with outbox.begin() as connection:
        hold(connection, theirs)
        other.submit(extend, outbox, begun).result(20)
    assert lease_of(outbox, theirs) == before
    assert {lease_of(outbox, each) for each in rest} == {before + 10.0}
    extend(outbox, begun)
    assert lease_of(outbox, theirs) == before + 10.0


# --- cancel, in a transaction that an app leaves open ---


def test_who_cannot_cancel_a_mail_does_not_lock_it(outbox, other):
    id_ = put(outbox)
    (begun,) = begin(outbox)
    with outbox.begin() as connection:
        assert not cancel_within(connection, outbox, id_)
        assert len(other.submit(say, outbox, begun, ACCEPTED).result(20)) == 1


def test_who_cancels_what_is_not_there_holds_up_no_new_mail(outbox, other):
    put(outbox)
    with outbox.open().connect() as theirs:
        theirs.execution_options(isolation_level="REPEATABLE READ", **outbox.options)
        with theirs.begin():
            assert not cancel_within(theirs, outbox, "x")
            other.submit(put, outbox).result(20)


def test_what_was_claimed_just_now_is_not_cancelled(outbox, other):
    id_ = put(outbox)
    ours, tried = threading.get_ident(), []

    def hear(statement, _terms):
        locks = "FOR UPDATE" in statement and "outbox_message" in statement
        if locks and threading.get_ident() == ours and not tried:
            tried.append(other.submit(begin, outbox).result(20))

    with heard(outbox, hear), outbox.begin() as connection:
        assert not cancel_within(connection, outbox, id_)
    assert [each.id for each in tried[0]] == [id_]
    assert look(outbox, id_).state is State.SENDING
