"""Resend, beside its documentation."""

from pathlib import Path

from contract.http_mails import ADA, plain, sealed, with_an_empty_attachment
from contract.http_transport_contract import KEY, HttpTransportContract
from flask_outbox.mail.message import Message
from flask_outbox.transports.resend import Resend

TEMPLATE = {"template": {"id": "welcome", "variables": {"name": "", "count": 0}}}


SAID = {
    "html alone": lambda: sealed(
        Message("hi", [ADA], html="<p>hello</p>", sender="shop@example.com")
    ),
    "a template": lambda: sealed(Message("", [ADA], sender="shop@example.com", provider=TEMPLATE)),
    "a topic": lambda: sealed(plain(provider={"topic_id": "t-1"})),
}
UNSAYABLE = {
    "a tag and metadata of one name, 'order'": lambda: sealed(
        plain(tags=["new", "order"], metadata={"order": "7"})
    ),
    "a tag and metadata of one name, 'outbox_id'": lambda: sealed(plain(tags=["outbox_id"])),
    "an attachment that is empty": lambda: sealed(with_an_empty_attachment()),
    "without a subject": lambda: sealed(Message("", [ADA], "x", sender="shop@example.com")),
    "besides a template": lambda: sealed(plain(provider=TEMPLATE)),
    "track_opens": lambda: sealed(plain(track_opens=False)),
    "track_clicks": lambda: sealed(plain(track_clicks=True)),
    "of tags": lambda: sealed(plain(tags=[str(at) for at in range(25)])),
    "of metadata": lambda: sealed(plain(metadata={str(at): "x" for at in range(51)})),
    "tags that do not match": lambda: sealed(plain(tags=["two words"])),
    "metadata that do not match": lambda: sealed(plain(metadata={"a b": "c"})),
    "metadata whose values do not match": lambda: sealed(plain(metadata={"a": "b c"})),
}


class TestResend(HttpTransportContract):
    recorded = Path(__file__).parent / "fixtures" / "resend"
    largest = 40 * 1024 * 1024
    mails = SAID
    unsupported = UNSAYABLE

    def at(self, home, **more):
        return Resend(KEY, home, **more)


def test_by_itself_it_goes_to_resend():
    assert Resend(KEY).home == "https://api.resend.com"
    assert repr(Resend(KEY)) == "<Resend https://api.resend.com>"
