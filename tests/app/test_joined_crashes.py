"""The web process dies by SIGKILL, before or after the commit of an order and its mail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flask_outbox import KeyConflict, State
from shop import note, open_shop

TESTS = Path(__file__).parents[1]


@pytest.fixture
def shop(database, tmp_path, server):
    with open_shop(
        database, tmp_path / "instance", MAIL_WORKER="process", MAIL_PORT=server.port
    ) as shop:
        yield shop


def kill_it(shop, what):
    """Have a process write an order and its mail down, and kill it there; give the mail's id."""
    command = [sys.executable, TESTS / "shop_process.py", shop.place, shop.app.instance_path, what]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        row = process.stdout.readline().strip()
        assert len(row) == 32
        process.kill()
    return row


def test_between_insert_and_commit_there_is_no_order_and_no_mail(shop, server):
    row = kill_it(shop, "write")
    assert shop.mail.status(row) is None
    assert shop.orders() == shop.mails() == []
    assert shop.mail.drain() == 0
    assert server.taken == []
    assert shop.mail.send_later(note(body="Another"), key="order-7") != row  # nothing is held
    shop.order()
    shop.db.session.commit()
    assert (len(shop.orders()), len(shop.mails())) == (1, 1)


def test_after_the_commit_and_before_the_response_the_same_key_gives_the_same_mail(shop, server):
    row = kill_it(shop, "commit")
    assert shop.orders() == ["tea"]
    shop.order("again")
    assert shop.mail.send_later(note(), key="order-7") == row
    shop.db.session.commit()
    assert shop.mails() == [row]
    assert shop.mail.drain() == 1
    assert shop.mail.send_later(note(), key="order-7") == row  # also when it has gone
    with pytest.raises(KeyConflict):
        shop.mail.send_later(note(body="Another"), key="order-7")
    shop.order("after a clash")
    shop.db.session.commit()
    assert shop.orders() == ["tea", "again", "after a clash"]
    assert shop.mail.drain() == 0
    assert shop.mail.status(row).state is State.ACCEPTED
    assert len(server.taken) == 1
