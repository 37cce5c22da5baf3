"""The contract, on PostgreSQL and on MariaDB."""

import pytest

from contract.outbox_contract import OutboxContract
from flask_outbox.outbox.database import Outbox


class OnServer(OutboxContract):
    @pytest.fixture
    def make_outbox(self, server):
        url = server.new()
        made: list[Outbox] = []

        def make(**terms) -> Outbox:
            if not made:
                Outbox(url).upgrade()
            made.append(Outbox(url, **terms))
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
