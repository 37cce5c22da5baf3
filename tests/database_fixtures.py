"""The databases under the outbox, for a folder's conftest: each server is kept for the session."""

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
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    url = request.getfixturevalue(request.param).new()
    Outbox(url).upgrade()
    return url
