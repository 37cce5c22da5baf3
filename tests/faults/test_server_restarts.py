"""Servers that restart, connections that end, poolers that do both."""

import time

import pytest

import databases
from cutter import Cutter
from faults_worker import PATIENCE, an_outbox, started
from flask_outbox.outbox.database import Outbox
from flask_outbox.worker.plan import Plan
from hostile import Hostile, later
from worker_stage import Eyes, Told, a_submission, at_work, put, wait_for

ONE = "<one@example.com>"


@pytest.fixture(scope="module", params=[databases.PostgreSql, databases.MariaDb])
def server(request):
    """One with little in it, as what it stops with it has to bring to the disk first."""
    with databases.running(request.param) as server:
        yield server


@pytest.fixture
def place(server):
    url = server.new()
    an_outbox(url).upgrade()
    return url


@pytest.fixture
def outbox(place):
    outbox = an_outbox(place, lease=30.0)
    yield outbox
    outbox.close()


@pytest.fixture
def eyes(place):
    return Eyes(place)


@pytest.fixture
def transport():
    return Told()


def names(count):
    return [f"n{i}" for i in range(count)]


# --- connections that are ended, servers that are restarted ---


def test_a_worker_whose_connections_are_ended_again_and_again_sends_each_mail_once(
    server, place, outbox, transport, eyes
):
    plan = Plan(outbox=outbox, transports={"default": transport}, connections=2, poll=0.1)
    put(outbox, *map(a_submission, names(400)))
    kicked = []

    def slowly(_):
        time.sleep(0.02)  # the far side takes its time

    transport.at_first_byte = slowly
    with at_work(plan):
        while eyes.count("state = 'accepted'") < 400:
            kicked.append(server.kick(place))
            since = eyes.count("state = 'accepted'")
            wait_for(lambda since=since: eyes.count("state = 'accepted'") > min(since + 10, 399))
    assert sum(kicked) >= 10
    assert sorted(transport.sent) == sorted(f"<{name}@example.com>" for name in names(400))
    assert eyes.count("attempts = 1") == 400


@pytest.mark.parametrize("how", ["fast", "crash"])
def test_a_server_that_is_restarted_while_mail_is_sent_costs_no_mail_and_no_copy(
    server, place, outbox, eyes, how
):
    put(outbox, *map(a_submission, names(150)))
    with Hostile({"dot": later(0.01)}) as relay, started(place, relay.port) as program:
        for sent in (20, 60, 100):
            relay.wait_until(lambda relay, sent=sent: len(relay.accepted) >= sent, 30.0)
            server.stop(getattr(server, how))
            server.start()
        wait_for(lambda: eyes.count("state = 'accepted'") == 150, 60.0)
        program.terminate()
        assert program.wait(20.0) == 0
    assert sorted(relay.message_ids) == sorted(f"<{name}@example.com>" for name in names(150))


def test_several_workers_survive_it_with_no_more_copies_than_were_in_flight(
    server, place, outbox, eyes
):
    put(outbox, *map(a_submission, names(150)))
    with (
        Hostile({"dot": later(0.01)}) as relay,
        started(place, relay.port, "--processes", "3") as program,
    ):
        relay.wait_until(lambda relay: len(relay.accepted) >= 40, 30.0)
        server.stop()
        in_flight = relay.connections
        # Longer than a lease of theirs, so that whoever is first may take over from the others.
        until = time.monotonic() + 1.5
        wait_for(lambda: time.monotonic() > until)
        server.start()
        wait_for(lambda: eyes.count("state = 'accepted'") == 150, 60.0)
        program.terminate()
        assert program.wait(20.0) == 0
    assert len(set(relay.message_ids)) == 150
    assert len(relay.message_ids) <= 150 + 8 * in_flight  # a window on each line


# --- heartbeats ---


def test_a_send_longer_than_its_lease_keeps_it(place, eyes, transport):
    outbox, other = an_outbox(place, lease=1.0), Told()
    hold = transport.hold("one")
    other.holds = transport.holds
    put(outbox, a_submission())
    mine = Plan(outbox=outbox, transports={"default": transport}, poll=0.1)
    theirs = Plan(outbox=outbox, transports={"default": other}, poll=0.1)
    with at_work(mine), at_work(theirs):
        wait_for(lambda: transport.begun or other.begun)
        begun = eyes.one("leased_at")
        wait_for(lambda: eyes.one("leased_at") > begun + 2.5)
        hold.set()
        wait_for(lambda: eyes.one("state") == "accepted")
    assert sorted(transport.sent + other.sent) == [ONE]
    outbox.close()


def test_while_the_database_is_away_a_send_is_finished_and_recorded_later(
    server, place, eyes, transport
):
    outbox = an_outbox(place, lease=1.0)
    hold = transport.hold("one")
    put(outbox, a_submission())
    with at_work(Plan(outbox=outbox, transports={"default": transport}, poll=0.1)) as worker:
        wait_for(lambda: transport.begun)
        server.stop()
        wait_for(lambda: worker._troubles >= 4)  # the lease is over
        hold.set()
        wait_for(lambda: transport.sent)
        server.start()
        wait_for(lambda: eyes.one("state") == "accepted")
    assert transport.sent == [ONE]
    assert eyes.one("attempts") == 1
    outbox.close()


def test_another_worker_may_have_taken_over_by_then_at_the_price_of_one_copy(
    server, place, eyes, transport
):
    outbox, theirs = an_outbox(place, lease=1.0), an_outbox(place, lease=1.0)
    other = Told()
    hold = transport.hold("one")
    put(outbox, a_submission())
    with Cutter(server.port) as cutter:
        through = an_outbox(place.replace(f":{server.port}/", f":{cutter.port}/"), lease=1.0)
        with at_work(Plan(outbox=through, transports={"default": transport}, poll=0.1)) as worker:
            wait_for(lambda: transport.begun)
            cutter.away = True
            cutter.cut()
            with at_work(Plan(outbox=theirs, transports={"default": other}, poll=0.1)):
                wait_for(lambda: eyes.one("alone"))  # taken over
                hold.set()
                wait_for(lambda: transport.sent and worker._troubles >= 3)
                cutter.away = False
                wait_for(lambda: worker._troubles == 0)
                wait_for(lambda: eyes.one("state") == "accepted")
        through.close()
    assert transport.sent + other.sent == [ONE, ONE]
    assert [kind for (kind,) in eyes.rows("SELECT kind FROM outbox_event ORDER BY number")] == [
        "unclear",
        "accepted",
    ]
    outbox.close()
    theirs.close()


# --- a pooler in between ---


def test_a_pooler_that_loses_its_servers_or_its_clients_costs_no_mail_and_no_copy(postgresql):
    direct = postgresql.new()
    Outbox(direct).upgrade()
    outbox, eyes = Outbox(direct, patience=PATIENCE), Eyes(direct)
    put(outbox, *map(a_submission, names(150)))
    with (
        databases.pooler(postgresql) as port,
        Cutter(port) as cutter,
        Hostile({"dot": later(0.01)}) as relay,
    ):
        pooled = direct.replace(f":{postgresql.port}/", f":{cutter.port}/")
        with started(pooled, relay.port) as program:
            for sent, trouble in (
                (20, lambda: postgresql.kick(direct)),
                (50, cutter.cut),
                (80, lambda: (postgresql.stop(), postgresql.start())),
                (100, lambda: postgresql.kick(direct)),
            ):
                relay.wait_until(lambda relay, sent=sent: len(relay.accepted) >= sent, 30.0)
                trouble()
            wait_for(lambda: eyes.count("state = 'accepted'") == 150, 60.0)
            program.terminate()
            assert program.wait(20.0) == 0
    assert sorted(relay.message_ids) == sorted(f"<{name}@example.com>" for name in names(150))
    outbox.close()
