"""Look-ups: every way in which one can end is told apart from the others."""

import pytest

from flask_outbox.mail.lookup import Ask, Found, How
from flask_outbox.wire.dns import Resolver
from name_server import serving

LONG = "v=DKIM1; p=" + "A" * 600
STRINGS = " ".join(f'"{LONG[at : at + 200]}"' for at in range(0, len(LONG), 200))
NAMES = {
    "shop.test": {
        "MX": ["10 mx.shop.test."],
        "TXT": ['"v=spf1 " "-all"'],
        "A": ["192.0.2.1", "192.0.2.2"],
        "AAAA": ["2001:db8::1"],
    },
    "long.shop.test": {"TXT": [STRINGS]},
    "none.test": {"MX": ["0 ."]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["mx.shop.test."]},
    "sick.test": "SERVFAIL",
    "closed.test": "REFUSED",
    "dead.test": "silence",
}


@pytest.fixture(scope="module")
def server():
    with serving(NAMES) as server:
        yield server


@pytest.fixture
def resolver(server):
    return Resolver(["127.0.0.1"], server.port)


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (Ask("shop.test", "MX"), Found(How.FOUND, ("10 mx.shop.test",))),
        (Ask("shop.test", "TXT"), Found(How.FOUND, ("v=spf1 -all",))),
        (Ask("shop.test", "A"), Found(How.FOUND, ("192.0.2.1", "192.0.2.2"))),
        (Ask("shop.test", "AAAA"), Found(How.FOUND, ("2001:db8::1",))),
        (Ask("long.shop.test", "TXT"), Found(How.FOUND, (LONG,))),
        (Ask("192.0.2.1", "PTR"), Found(How.FOUND, ("mx.shop.test",))),
        (Ask("none.test", "MX"), Found(How.FOUND, ("0 .",))),
        (Ask("none.test", "A"), Found(How.EMPTY)),
        (Ask("nobody.test", "MX"), Found(How.NO_NAME)),
        (Ask("sick.test", "MX"), Found(How.FAILED)),
        (Ask("closed.test", "MX"), Found(How.FAILED)),
        (Ask("a..test", "MX"), Found(How.NO_SENSE)),
        (Ask("a" * 64 + ".test", "MX"), Found(How.NO_SENSE)),
        (Ask("mx.shop.test", "PTR"), Found(How.NO_SENSE)),
    ],
)
def test_what_is_looked_up_is_what_is_published(resolver, ask, found):
    result = resolver.look_up(ask)
    assert (result.how, sorted(result.records)) == (found.how, sorted(found.records))


def test_nobody_is_waited_for_longer_than_that(server):
    assert Resolver(["127.0.0.1"], server.port, seconds=0.1).look_up(
        Ask("dead.test", "A")
    ) == Found(How.TIMEOUT)


def test_what_is_not_there_is_another_thing_than_what_nobody_knows():
    assert [each for each in How if Found(each).void] == [How.EMPTY, How.NO_NAME, How.NO_SENSE]
    assert [each for each in How if Found(each).unknown] == [How.FAILED, How.TIMEOUT]


def test_a_rule_is_answered_until_it_comes_to_something(resolver):
    def rule():
        mx = yield Ask("shop.test", "MX")
        txt = yield Ask("shop.test", "TXT")
        return mx.records + txt.records

    assert resolver.carry(rule()) == ("10 mx.shop.test", "v=spf1 -all")
