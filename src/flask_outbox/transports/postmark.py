"""Postmark: one JSON object for one mail.

Read on 2026-11-29: postmarkapp.com/developer/api/email-api, …/api/templates-api,
…/api/overview#error-codes and …/support/article/1125-custom-metadata-faq; lib/postmark/error.rb of
ActiveCampaign/postmark-gem, which finds inactive addresses in the answer's words, too.
The mail's Date is Postmark's own; it is asked to keep the Message-ID.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping

from flask_outbox.mail.errors import UnsupportedFeature
from flask_outbox.mail.exchange import HttpRequest, HttpResponse, Tls
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused
from flask_outbox.mail.outline import Outline
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.mail.unseal import Parts
from flask_outbox.transports.base import VERIFIED, Carries, HttpTransport, Words

# Token; maintenance; sender signature not there, not confirmed; no credits; account pending, or
# not allowed to send; too many requests: all of them about the account, with HTTP 422 for most.
OURS = frozenset({10, 100, 400, 401, 405, 412, 413, 429})
INACTIVE = 406  # it has bounced or complained before
INVALID = 300  # about the mail, unless it is about its sender
_SENDER = "'From'"
_KEEP = "X-PM-KeepID"  # a header by which Postmark is asked to keep the Message-ID
# Around an address in a text: nothing that would make it a part of another. An apostrophe may be
# a quotation mark, unless a letter of an address stands before it.
_LETTER = r"[\w.!#$%&*+/=?^`{|}~-]"
_BEFORE, _AFTER = rf"(?<!{_LETTER})(?<!{_LETTER}')", r"(?![\w-]|\.[\w-])"


class Postmark(HttpTransport):
    """The way out."""

    name = "postmark"
    home = "https://api.postmarkapp.com"
    says = ("Message",)
    at_a_glance = True
    carries = Carries(
        raw=False,
        envelope=False,
        utf8=False,
        tags=Words(most=1, names=r"(?s:.){1,1000}"),
        metadata=Words(most=9, names=r"(?s:.){1,20}", values=r"(?s:.){1,80}"),
        empty=False,
        provider=("MessageStream", "TemplateId", "TemplateAlias", "TemplateModel", "InlineCss"),
        template=("TemplateId", "TemplateAlias"),
        opens=True,
        clicks=True,
        recipients=50,
        size=10 * 1024 * 1024,
    )

    def __init__(
        self, token: str, home: str | None = None, *, stream: str = "", tls: Tls = VERIFIED
    ) -> None:
        super().__init__(token, home, tls=tls)
        self.stream = stream  # the message stream, where it is not Postmark's default one

    @property
    def identity(self) -> str:
        """The stream is one's own."""
        return f"{super().identity} {self.stream}"

    def request(self, submission: Submission) -> HttpRequest:
        """Say it in Postmark's words; a template has an address of its own."""
        parts = self.parts(submission)
        template = any(name in submission.provider for name in self.carries.template)
        clicks = {None: None, True: "HtmlAndText", False: "None"}[submission.track_clicks]
        return HttpRequest.json(
            f"{self.home}/email{'/withTemplate' if template else ''}",
            headers={"X-Postmark-Server-Token": self.token},
            body={
                "From": str(parts.sender),
                "To": ", ".join(map(str, parts.to)),
                "Cc": ", ".join(map(str, parts.cc)),
                "Bcc": ", ".join(map(str, parts.bcc)),
                "ReplyTo": ", ".join(map(str, parts.reply_to)),
                "Subject": parts.subject,
                "TextBody": None if template else parts.text,
                "HtmlBody": parts.html,
                "Headers": list(_headers(parts)),
                "Tag": "".join(submission.tags),
                "Metadata": self.metadata(submission),
                "TrackOpens": submission.track_opens,
                "TrackLinks": clicks,
                "MessageStream": self.stream,
                "Attachments": list(_attachments(parts)),
            },
            extra=submission.provider,
        )

    def glance(self, submission: Submission) -> Outline:
        """Raise for what has no place in a request."""
        seen = super().glance(submission)
        names = [name.lower() for name in self.metadata(submission)]
        if len(set(names)) < len(names):
            raise UnsupportedFeature(
                f"{self.name} cannot carry metadata whose names differ in case alone."
            )
        return seen

    def reference(self, response: HttpResponse) -> str:
        """Find it in ``{"MessageID": "b7bc2f4a-…"}``."""
        return response.text_at("MessageID")

    def about_us(self, response: HttpResponse) -> bool:
        """Tell by Postmark's own code, and of an invalid mail by what it names."""
        code = response.number_at("ErrorCode")
        return code in OURS or (code == INVALID and _SENDER in response.text_at("Message"))

    def outcomes(self, submission: Submission, response: HttpResponse) -> Mapping[str, Outcome]:
        """Judge name by name where it will not write to some."""
        outcome = self.verdict(submission, response)
        accepted = isinstance(outcome, Accepted)
        if not accepted and response.number_at("ErrorCode") != INACTIVE:
            return Receipt.same(submission, outcome)
        message, text = response.text_at("Message"), self.told(submission, response)
        inactive = {each for each in submission.recipients if _is_named(each, message)}
        if not inactive:
            return Receipt.same(submission, outcome)
        # It wrote to the others; or to nobody, and then they are written to without these.
        rest = outcome if accepted else Deferred(text, Fault.NONE)
        refused = Refused(text)
        return {each: refused if each in inactive else rest for each in submission.recipients}


def _is_named(address: str, message: str) -> bool:
    """Look for this very address: to find all that there are would be to guess where one ends."""
    pattern = _BEFORE + re.escape(address.lower()) + _AFTER
    return re.search(pattern, message.lower()) is not None


def _headers(parts: Parts) -> Iterator[dict[str, str]]:
    for name, value in parts.headers:
        yield {"Name": name, "Value": value}
    if parts.message_id:
        yield {"Name": "Message-ID", "Value": parts.message_id}
        if not any(name.lower() == _KEEP.lower() for name, _ in parts.headers):
            yield {"Name": _KEEP, "Value": "true"}


def _attachments(parts: Parts) -> Iterator[dict[str, str]]:
    for each in parts.attachments:
        yield {
            "Name": each.filename or "attachment",
            "Content": b64encode(each.data).decode(),
            "ContentType": each.media_type,
            "ContentID": f"cid:{each.cid}" if each.cid else "",
        }
