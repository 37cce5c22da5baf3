"""The contract's own asserts are explained like those of any test."""

import pytest

pytest.register_assert_rewrite("contract", "outbox_mail")
