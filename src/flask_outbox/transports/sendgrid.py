"""SendGrid: one JSON object for one mail, with one "personalization" in it.

Read on 2026-11-29: twilio.com/docs/sendgrid/api-reference/mail-send, …/mail-send/mail-send,
…/mail-send/errors and …/for-developers/sending-email/personalizations; spec/json/tsg_mail_v3.json
of twilio/sendgrid-oai.
The mail's Date is SendGrid's own. The charset of an attached text is not told: its type may have
no parameters there.
"""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import UnsupportedFeature
from flask_outbox.mail.exchange import HttpRequest, HttpResponse
from flask_outbox.mail.headers import encoded_words
from flask_outbox.mail.outline import Outline
from flask_outbox.mail.submission import Submission
from flask_outbox.mail.unseal import Parts
from flask_outbox.transports.base import Carries, HttpTransport, Words, bearer, octets

MOST_METADATA = 10_000  # octets of custom_args


class SendGrid(HttpTransport):
    """The way out. Our tags are categories, our metadata custom_args."""

    name = "sendgrid"
    home = "https://api.sendgrid.com"
    says = ("errors", 0, "message")
    at_a_glance = True
    carries = Carries(
        raw=False,
        envelope=False,
        utf8=False,
        untitled=False,
        tags=Words(most=10, names=r"(?s:.){1,255}"),
        metadata=Words(most=1000, names=r"(?s:.)+", values=r"(?s:.)+"),
        provider=("template_id", "dynamic_template_data", "asm", "ip_pool_name", "mail_settings"),
        template=("template_id",),
        reserved=("x-sg-id", "x-sg-eid", "received", "dkim-signature"),
        empty=False,
        opens=True,
        clicks=True,
        recipients=1000,
        size=30 * 1024 * 1024,
    )

    def request(self, submission: Submission) -> HttpRequest:
        """Say it in SendGrid's words; a template's data belong to whom it is for."""
        parts = self.parts(submission)
        extra = dict(submission.provider)
        data = extra.pop("dynamic_template_data", None)
        return HttpRequest.json(
            f"{self.home}/v3/mail/send",
            headers=bearer(self.token),
            body={
                "from": _person(parts.sender),
                "reply_to_list": [_person(each) for each in parts.reply_to],
                "subject": parts.subject,
                "content": list(_content(parts)),
                "attachments": list(_attachments(parts)),
                "headers": dict(_headers(parts)),
                "categories": list(submission.tags),
                "custom_args": self.metadata(submission),
                "tracking_settings": {
                    "open_tracking": {"enable": submission.track_opens},
                    "click_tracking": {
                        "enable": submission.track_clicks,
                        "enable_text": submission.track_clicks,
                    },
                },
            },
            extra={"personalizations": [_personal(parts, data)], **extra},
        )

    def glance(self, submission: Submission) -> Outline:
        """Raise for what has no place in a request."""
        seen = super().glance(submission)
        if octets(self.metadata(submission).items()) > MOST_METADATA:
            raise UnsupportedFeature(
                f"{self.name} cannot carry metadata of more than {MOST_METADATA} octets."
            )
        return seen

    def reference(self, response: HttpResponse) -> str:
        """Find it in the header of an answer that has no body."""
        return response.header("x-message-id")


def _person(address: Address) -> dict[str, str]:
    return {"email": address.addr, "name": address.name}


def _personal(parts: Parts, data: Any) -> dict[str, Any]:
    """Name whom it is for, each once: SendGrid refuses a mail that names anybody twice."""
    named: set[str] = set()
    said: dict[str, Any] = {}
    for field, addresses in (("to", parts.to), ("cc", parts.cc), ("bcc", parts.bcc)):
        people: list[dict[str, str]] = []
        for each in addresses:
            if each.addr not in named:
                named.add(each.addr)
                people.append(_recipient(each))
        if people:
            said[field] = people
    if data is not None:
        said["dynamic_template_data"] = data
    return said


def _recipient(address: Address) -> dict[str, str]:
    name = address.name
    if not name:
        return {"email": address.addr}
    if "," in name or ";" in name:
        # SendGrid writes such a name into To without the quotes that it needs there: issue 291 of
        # sendgrid/sendgrid-python.
        name = str(Address(name, address.addr)).rpartition(" ")[0]
    return {"email": address.addr, "name": name}


def _content(parts: Parts) -> Iterator[dict[str, str]]:
    """Give the text before the HTML; a text of no letter is refused."""
    for kind, text in (("text/plain", parts.text), ("text/html", parts.html)):
        if text and text.strip():
            yield {"type": kind, "value": text}


def _headers(parts: Parts) -> Iterator[tuple[str, str]]:
    """Give them encoded, as SendGrid asks for."""
    for name, value in parts.headers:
        yield name, value if value.isascii() else " ".join(encoded_words(value, "utf-8", 0))
    if parts.message_id:
        yield "Message-ID", parts.message_id


def _attachments(parts: Parts) -> Iterator[dict[str, str]]:
    for each in parts.attachments:
        yield {
            "content": b64encode(each.data).decode(),
            "type": each.content_type,
            "filename": each.filename or "attachment",
            "disposition": "inline" if each.inline else "attachment",
            "content_id": each.cid,
        }
