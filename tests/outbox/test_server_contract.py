"""The contract, on PostgreSQL and on MariaDB."""

from functools import cache

import pytest

from contract.outbox_contract import OutboxContract
from databases import Server
from flask_outbox.outbox.database import Outbox
from outbox_mail import empty


@cache
def place_on(server: Server) -> str:
    """Make one outbox for all tests, since its tables take longer than most of these."""
    url = server.new()
    Outbox(url).upgrade()
    return url


class OnServer(OutboxContract):
    @pytest.fixture
    def make_outbox(self, server):
        url = place_on(server)
        server.kick(url)
        made: list[Outbox] = []

        def make(**terms) -> Outbox:
            made.append(Outbox(url, **terms))
            if len(made) == 1:
                empty(made[0])
            return made[-1]

        yield make
        for each in made:
            each.close()


class TestPostgreSql(OnServer):
    @pytest.fixture
    def server(self, postgresql):
        return postgresql


class TestMariaDb(OnServer):
    @pytest.fixture
    def server(self, mariadb):
        return mariadb
