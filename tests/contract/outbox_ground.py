"""The fixtures that every part of the outbox contract stands on."""

import pytest

from outbox_mail import KEYRING, Clock, MakeOutbox


class Ground:
    """Override ``make_outbox``: a function that opens the one database under test."""

    @pytest.fixture
    def make_outbox(self) -> MakeOutbox:
        raise NotImplementedError

    @pytest.fixture
    def clock(self):
        return Clock()

    @pytest.fixture
    def outbox(self, make_outbox, clock):
        return make_outbox(clock=clock, keyring=KEYRING)
