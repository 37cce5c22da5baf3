"""A new database and a migrated one are the same, and old meets new with words."""

import logging
import subprocess
import sys

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.migrations import config, migrate
from flask_outbox.outbox.schema import must_be_current, version
from flask_outbox.outbox.tables import REVISION
from outbox_mail import put, take
from schema_of import schema


@pytest.fixture
def file(tmp_path):
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(file):
    made = Outbox(f"sqlite:///{file}")
    yield made
    made.close()


def migrated(file):
    outbox = Outbox(f"sqlite:///{file}")
    outbox.database.make()
    engine = outbox.database.engine()
    with engine.begin() as connection:
        migrate(connection)
    engine.dispose()
    return outbox


def test_a_new_schema_is_the_migrated_one(outbox, tmp_path):
    outbox.open()
    other = migrated(tmp_path / "migrated.sqlite3")
    assert schema(outbox) == schema(other)
    other.close()


def test_a_migrated_outbox_works(tmp_path):
    outbox = migrated(tmp_path / "migrated.sqlite3")
    put(outbox)
    assert len(take(outbox)) == 1
    outbox.close()


def test_the_code_knows_alembics_head():
    assert ScriptDirectory.from_config(config()).get_current_head() == REVISION


def test_every_migration_can_be_taken_back(outbox):
    outbox.open()
    with outbox.begin() as connection:
        command.downgrade(config(connection), "base")
        left = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        assert {each.name for each in left} == {"outbox_version"}
        migrate(connection)
        assert version(connection) == REVISION


def test_taken_back_each_leaves_what_was_there_before_it(place):
    outbox = Outbox(place)
    outbox.open()
    revisions = [f"{each:04}" for each in range(1, int(REVISION) + 1)]
    before = {}

    def walk(step, to):
        with outbox.begin() as connection:
            step(config(connection, outbox.database.schema), to)
        return schema(outbox)

    walk(command.downgrade, "base")
    for each in revisions:
        before[each] = walk(command.upgrade, each)
    for each in reversed(revisions[:-1]):
        assert walk(command.downgrade, each) == before[each]
    outbox.close()


def test_an_older_schema_is_migrated_on_first_use(outbox, caplog):
    outbox.open()
    with outbox.begin() as connection:
        command.downgrade(config(connection), "base")
    outbox.close()
    caplog.set_level(logging.INFO, "flask_outbox.outbox")
    put(outbox)
    assert len(take(outbox)) == 1
    assert any(REVISION in each.getMessage() for each in caplog.records)


def test_tables_without_a_version_are_taken_for_what_they_are(outbox):
    """As code left them that made them outside of a transaction, which was rolled back then."""
    row = put(outbox)
    before = schema(outbox)
    with outbox.begin() as connection:
        connection.execute(text("DELETE FROM outbox_version"))
    outbox.close()
    assert [each.id for each in take(outbox)] == [row]
    assert schema(outbox) == before
    with outbox.read() as connection:
        assert version(connection) == REVISION


def test_a_newer_schema_is_an_error_that_names_the_command(outbox):
    outbox.open()
    with outbox.begin() as connection:
        connection.execute(text("UPDATE outbox_version SET version_num = '9999'"))
    outbox.close()
    with pytest.raises(OutboxUnavailable, match=r"9999.*flask outbox upgrade"):
        put(outbox)


def test_a_database_that_others_migrate_stops_the_start_and_names_the_command(outbox):
    must_be_current(outbox.database)
    outbox.database.keeper = "flask outbox upgrade"
    with pytest.raises(OutboxUnavailable, match="flask outbox upgrade"):
        put(outbox)
    outbox.upgrade()
    put(outbox)


def test_upgrading_what_is_current_changes_nothing(outbox):
    put(outbox)
    before = schema(outbox)
    outbox.upgrade()
    assert schema(outbox) == before
    assert len(take(outbox)) == 1


def test_alembic_is_not_imported_for_a_new_or_a_current_outbox(file):
    script = f"""
import sys
from flask_outbox.outbox.database import Outbox
for _ in range(2):
    Outbox("sqlite:///{file}").open().dispose()
sys.exit("alembic" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
