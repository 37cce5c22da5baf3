"""The contract's own asserts are explained like those of any test."""

import pytest

from database_fixtures import mariadb, postgresql

__all__ = ["mariadb", "postgresql"]

pytest.register_assert_rewrite("contract", "outbox_mail")
