"""What must be so before the first test module is imported."""

import signal

import pytest

# Helpers whose asserts are explained like those of any test.
pytest.register_assert_rewrite("contract", "outbox_mail")

# Programs that tests start heed SIGHUP as at a terminal, also where the suite runs under nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
