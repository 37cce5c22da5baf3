"""Postmark, beside its documentation."""

import json
from pathlib import Path

import pytest

from contract.http_mails import ADA, BOB, plain, rich, sealed, with_an_empty_attachment
from contract.http_transport_contract import KEY, HttpTransportContract
from flask_outbox.mail.exchange import HttpResponse
from flask_outbox.mail.message import Message
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused
from flask_outbox.transports.postmark import Postmark
from hostile_http import say

TEMPLATE = {"TemplateAlias": "welcome", "TemplateModel": {"name": "", "count": 0}}


def empty(**more):
    return Message("", [ADA], sender="shop@example.com", **more)


SAID = {
    "a template": lambda: sealed(empty(provider=TEMPLATE)),
    "a template by number": lambda: sealed(
        empty(provider={"TemplateId": 7, "TemplateModel": {}, "InlineCss": False})
    ),
    "watched": lambda: sealed(plain(track_opens=True, track_clicks=True)),
    "unwatched": lambda: sealed(plain(track_opens=False, track_clicks=False)),
    "another stream": lambda: sealed(plain(provider={"MessageStream": "broadcast"})),
}
UNSAYABLE = {
    "an attachment that is empty": lambda: sealed(with_an_empty_attachment()),
    "metadata whose values do not match (?s:.){1,80}": lambda: sealed(plain(metadata={"a": ""})),
    "besides a template": lambda: sealed(plain(provider=TEMPLATE)),
    "subject or a text besides": lambda: sealed(plain(provider={"TemplateId": 7})),
    "of tags": lambda: sealed(plain(tags=["a", "b"])),
    "tags that do not match": lambda: sealed(plain(tags=["x" * 1001])),
    "of metadata": lambda: sealed(plain(metadata={str(at): "x" for at in range(10)})),
    "metadata that do not match": lambda: sealed(plain(metadata={"x" * 21: "c"})),
    "differ in case": lambda: sealed(plain(metadata={"a": "1", "A": "2"})),
    "differ in case alone": lambda: sealed(plain(metadata={"Outbox_ID": "2"})),
    "metadata whose values do not match": lambda: sealed(plain(metadata={"a": "b" * 81})),
}


class TestPostmark(HttpTransportContract):
    recorded = Path(__file__).parent / "fixtures" / "postmark"
    largest = 10 * 1024 * 1024
    mails = SAID
    unsupported = UNSAYABLE

    def at(self, home, **more):
        return Postmark(KEY, home, **more)

    @pytest.mark.parametrize("code", [10, 100, 400, 401, 405, 412, 413, 429])
    def test_a_code_about_our_account_pauses_the_route(self, code):
        (outcome,) = self.sent({"whole": say(422, {"ErrorCode": code, "Message": "no"})})
        assert isinstance(outcome, Deferred)
        assert outcome.fault is Fault.OURS

    @pytest.mark.parametrize("code", [10, 406, 300])
    def test_what_was_accepted_stays_so_whatever_the_code(self, code):
        (outcome,) = self.sent({"whole": say(200, {"ErrorCode": code, "MessageID": "7"})})
        assert outcome == Accepted("200", "7")

    @pytest.mark.parametrize("code", [0, 300, 402, 403, 409, 411, 1101])
    def test_any_other_code_refuses_the_mail(self, code):
        (outcome,) = self.sent({"whole": say(422, {"ErrorCode": code, "Message": f"no {ADA}"})})
        assert isinstance(outcome, Refused)

    def test_a_stream_is_named(self, driver, server):
        transport = Postmark(KEY, server.home, stream="broadcast")
        self.carry(transport.send([sealed(plain())]))
        assert server.requests[0].json()["MessageStream"] == "broadcast"

    def test_those_who_were_not_written_to_are_written_to_without_the_inactive_one(self):
        said = f"Found inactive addresses: {ADA.upper()}. Inactive recipients are ones that …"
        answer = say(422, {"ErrorCode": 406, "Message": said})
        ada, bob = self.sent({"whole": answer}, sealed(rich(), ADA, BOB))
        assert isinstance(ada, Refused)
        assert isinstance(bob, Deferred)
        assert bob.fault is Fault.NONE


def outcomes(recipients, message, status=200):
    """Judge what Postmark says of a mail to these."""
    code = 0 if status == 200 else 406
    body = json.dumps({"ErrorCode": code, "MessageID": "7", "Message": message}).encode()
    mail = sealed(Message("hi", recipients, "hello", sender="shop@example.com"))
    found = Postmark(KEY).outcomes(mail, HttpResponse(status=status, body=body))
    return {each: type(outcome) for each, outcome in found.items()}


ODD = [
    "o'brien@example.org",
    "o'.brien@example.org",
    "a+b@example.org",
    "a{b}|c@example.org",
    "/x=y@example.org",
    "A.B@example.org",
    "x@sub.example-shop.org",
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "listed", ["{}.", "{}", "{}, eve@example.org. Inactive", "eve@example.org,{};", "'{}'", '"{}"']
)
def test_an_inactive_address_of_any_letters_costs_nobody_else_the_mail(odd, listed):
    said = f"Found inactive addresses: {listed.format(odd.lower())}"
    assert outcomes([odd, ADA], said, 422) == {odd: Refused, ADA: Deferred}
    assert outcomes([odd, ADA], said) == {odd: Refused, ADA: Accepted}


@pytest.mark.parametrize(
    "other",
    [
        "notbob@example.org", "not.bob@example.org", "o'bob@example.org", "x+bob@example.org",
        "x_bob@example.org", "{bob@example.org", "bob@example.org.uk", "bob@example.orga",
        "bob@example.org-x.test", "bob@example.org_x",
    ],
)  # fmt: skip
def test_an_address_within_another_is_not_named_by_it(other):
    said = f"Found inactive addresses: {other}, {ADA}. Inactive recipients are ones that …"
    assert outcomes([BOB, ADA], said, 422) == {BOB: Deferred, ADA: Refused}


@pytest.mark.parametrize("name", ["X-PM-KeepID", "x-pm-keepid"])
def test_whether_the_message_id_is_kept_is_said_once(name):
    asked = Postmark(KEY).request(sealed(plain(extra_headers={name: "false"})))
    headers = [(each["Name"], each["Value"]) for each in json.loads(asked.body)["Headers"]]
    assert headers == [(name, "false"), ("Message-ID", "<1@example.com>")]


def test_by_itself_it_goes_to_postmark():
    assert Postmark(KEY).home == "https://api.postmarkapp.com"
    assert repr(Postmark(KEY)) == "<Postmark https://api.postmarkapp.com>"
