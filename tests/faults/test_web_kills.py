"""A short run of the kills of web processes; and a shop that writes orders and mails apart."""

import pytest
from web_kills import run


@pytest.fixture
def place(tmp_path):
    return f"sqlite:///{tmp_path / 'shop.sqlite3'}"


def test_web_processes_that_are_killed_leave_each_order_with_its_mail(place):
    judged = run(place, seed=11, kills=20, seconds=60.0)
    assert judged.holds, "\n".join(judged.lines())


def test_a_shop_that_writes_orders_and_mails_apart_does_not_pass(place):
    judged = run(place, seed=12, kills=15, seconds=60.0, careless=True)
    assert any("has no mail" in each for each in judged.wrong)
