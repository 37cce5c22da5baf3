"""What must be so before the first test module is imported."""

import signal

import pytest
from hypothesis import settings

from database_fixtures import mariadb, place, postgresql

__all__ = ["mariadb", "place", "postgresql"]  # one of each server for all folders

# Helpers whose asserts are explained like those of any test.
pytest.register_assert_rewrite("contract", "outbox_mail")

settings.register_profile("suite", deadline=None)  # no test is about a time
settings.load_profile("suite")

# Programs that tests start heed signals as at a terminal, also where the suite runs under nohup,
# or in the background of a shell, which ignores SIGINT there.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_command_line(monkeypatch):
    """Forget that an earlier test ran a command in here: ``app.run`` does nothing then."""
    monkeypatch.delenv("FLASK_RUN_FROM_CLI", raising=False)
