"""The databases under the outbox: each server is kept for the session."""

import pytest

import databases
from flask_outbox.outbox.database import Outbox

KINDS = ("sqlite", "postgresql", "mariadb")


@pytest.fixture(scope="session")
def postgresql():
    with databases.running(databases.PostgreSql) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb():
    with databases.running(databases.MariaDb) as server:
        yield server


@pytest.fixture(params=KINDS)
def place(request, tmp_path):
    """Where an outbox is, one for each kind of database: a file, or the URL of an empty one."""
    return new_place(request, request.param, tmp_path)


def new_place(request, kind, folder):
    """Make a place for an outbox."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'outbox.sqlite3'}"
    url = request.getfixturevalue(kind).new()
    Outbox(url).upgrade()
    return url
