"""The contract, on SQLite."""

import pytest

from contract.outbox_contract import OutboxContract
from flask_outbox.outbox.database import Outbox


class TestSqliteFile(OutboxContract):
    @pytest.fixture
    def make_outbox(self, tmp_path):
        made: list[Outbox] = []

        def make(**terms) -> Outbox:
            made.append(Outbox(f"sqlite:///{tmp_path}/outbox.sqlite3", **terms))
            return made[-1]

        yield make
        for each in made:
            each.close()


class TestSqliteInMemory(OutboxContract):
    @pytest.fixture
    def make_outbox(self):
        first: list[Outbox] = []

        def make(*, lease=30.0, **terms) -> Outbox:
            if first and lease != first[0].lease:
                other = Outbox("sqlite://", lease=lease, **terms)
                other.database, other._engine = first[0].database, first[0].open()
                return other
            first.append(Outbox("sqlite://", lease=lease, **terms))
            return first[-1]

        yield make
        for each in first:
            each.close()
