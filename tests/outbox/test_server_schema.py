"""How the schema comes to a server, and what happens where it is not there."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from alembic import command
from sqlalchemy import Engine, event, inspect, update

from flask_outbox.mail.errors import ConfigurationError, OutboxUnavailable
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.migrations import config, migrate
from flask_outbox.outbox.schema import version
from flask_outbox.outbox.tables import REVISION, schema_version
from outbox_mail import put, take
from schema_of import schema

BOUND = 60.0


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def opened():
    made = []

    def open_at(url):
        made.append(Outbox(url))
        return made[-1]

    yield open_at
    for each in made:
        each.close()


def test_a_new_schema_is_the_migrated_one(server, opened):
    new, old = opened(server.new()), opened(server.new())
    new.upgrade()
    at_version(old, "0001")
    old.upgrade()
    assert schema(new) == schema(old)
    put(old)
    assert len(take(old)) == 1


def at_version(outbox, revision):
    """Bring it to an older schema; what an older release had made."""
    outbox.upgrade()
    inside = outbox.database.schema
    with outbox.begin() as connection:
        command.downgrade(config(connection, inside), "base")
    with outbox.begin() as connection:
        migrate(connection, revision, inside)
        assert version(connection, inside) == revision
    outbox.close()


def test_nothing_is_made_by_using_it_and_the_error_names_the_command(server, opened):
    outbox = opened(server.new())
    with pytest.raises(OutboxUnavailable, match="flask outbox upgrade"):
        put(outbox)
    engine = outbox.database.engine()
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_an_older_schema_is_an_error_that_names_the_command(server, opened):
    outbox = opened(server.new())
    at_version(outbox, "0001")
    with pytest.raises(OutboxUnavailable, match="flask outbox upgrade"):
        put(outbox)


def test_code_works_with_the_schema_that_comes_next_and_not_with_the_one_after(server, opened):
    outbox = opened(server.new())
    outbox.upgrade()
    for ahead, works in ((1, True), (2, False)):
        with outbox.begin() as connection:
            at = f"{int(REVISION) + ahead:04}"
            connection.execute(update(schema_version).values(version_num=at))
        outbox.close()
        if works:
            put(outbox)
        else:
            with pytest.raises(OutboxUnavailable, match=at):
                put(outbox)


def test_on_postgresql_our_tables_stand_in_a_schema_of_their_own(postgresql, opened):
    outbox = opened(postgresql.new())
    outbox.upgrade()
    with outbox.begin() as connection:
        inspector = inspect(connection)
        assert inspector.get_table_names() == []
        assert "outbox_message" in inspector.get_table_names("flask_outbox")


@pytest.mark.parametrize("was_at", ["", "0001"])
def test_several_may_upgrade_at_once(server, opened, was_at):
    """As where a deploy runs the command on each machine."""
    place, together = server.new(), threading.Barrier(4)
    if was_at:
        at_version(opened(place), was_at)

    def upgrade(outbox):
        outbox.database.engine()  # imports the driver
        together.wait(BOUND)
        outbox.upgrade()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, [opened(place) for _ in range(4)]))
    assert put(opened(place))


@pytest.mark.parametrize("was_at", ["", "0001"])
def test_an_upgrade_that_was_broken_off_is_finished_by_the_next(mariadb, opened, was_at):
    """Wherever it was, since each of its steps is committed."""
    whole = opened(mariadb.new())
    whole.upgrade()
    for steps in count(1):
        outbox = opened(mariadb.new())
        if was_at:
            at_version(outbox, was_at)
        if not broken_off(outbox, steps):
            break
        outbox.upgrade()
        assert schema(outbox) == schema(whole)
        outbox.close()
    assert steps > 10


class BrokenOffError(Exception):
    """As by a kill."""


def broken_off(outbox, steps):
    """Upgrade it until so many steps are done; tell whether there were as many."""
    left = [steps]

    def step(_connection, _cursor, statement, *_more):
        left[0] -= statement.lstrip().startswith(("CREATE", "ALTER", "DROP"))
        if not left[0]:
            raise BrokenOffError

    event.listen(Engine, "after_cursor_execute", step)
    try:
        outbox.upgrade()
    except BrokenOffError:
        return True
    finally:
        event.remove(Engine, "after_cursor_execute", step)
    return False


def test_a_password_stands_in_no_error_and_no_repr():
    outbox = Outbox("postgresql://ada:canary-password@127.0.0.1:1/none")
    with pytest.raises(OutboxUnavailable) as caught:
        put(outbox)
    assert "canary" not in f"{caught.value} {outbox!r} {caught.value.__cause__}"
    assert "127.0.0.1:1" in str(caught.value)


def test_a_driver_that_is_not_there_is_named_with_what_installs_it():
    with pytest.raises(ConfigurationError, match=r"pip install 'flask-outbox\[mysql\]'"):
        put(Outbox("mysql+nothing://host/db"))
