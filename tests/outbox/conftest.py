"""The contract's own asserts are explained like those of any test."""

import pytest

import databases

pytest.register_assert_rewrite("contract", "outbox_mail")


@pytest.fixture(scope="session")
def postgresql():
    """A server of our own; kept for the session."""
    with databases.running(databases.PostgreSql) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb():
    """The same."""
    with databases.running(databases.MariaDb) as server:
        yield server
