import pytest

from app_fixtures import app, live, mail, make_sender, server
from database_fixtures import KINDS

__all__ = ["app", "live", "mail", "make_sender", "server"]


@pytest.fixture(params=KINDS)
def database(request, tmp_path):
    """An empty database of each kind, as MAIL_OUTBOX_URL would name it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.sqlite3'}"
    return request.getfixturevalue(request.param).new()
