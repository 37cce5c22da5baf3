"""Mailgun: the sealed mail as it is, in a form with whom it is still to reach.

Read on 2026-11-29: documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
(post-v3--domain-name--messages-mime), …/user-manual/sending-messages, …/tracking-messages; pull
request 409 of mailgun/mailgun-go, by which a mail may have ten tags. RFC 7578 is the form's.
Recipients can read our metadata and our row's id, unless o:suppress-headers names the field that
Mailgun adds to the mail for them, X-Mailgun-Variables.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from flask_outbox.mail.errors import ConfigurationError, UnsupportedFeature
from flask_outbox.mail.exchange import HttpRequest, HttpResponse, Tls
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import VERIFIED, Carries, HttpTransport, Words, octets

MOST_OPTIONS = 16 * 1024  # octets of all fields whose names begin with o:, t: or v:
_DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
Field = tuple[str, str]


class Mailgun(HttpTransport):
    """The way out. Our metadata are Mailgun's variables."""

    name = "mailgun"
    home = "https://api.mailgun.net"
    carries = Carries(
        envelope=False,
        utf8=False,
        tags=Words(most=10, names=r"[ -~]{1,128}"),
        metadata=Words(most=1000, names=r"[A-Za-z0-9_.-]+"),
        provider=(
            *("template", "t:version", "t:text", "t:variables", "o:testmode", "o:dkim"),
            *("o:secondary-dkim", "o:secondary-dkim-public", "o:deliverytime-optimize-period"),
            *("o:time-zone-localize", "o:tracking", "o:tracking-pixel-location-top"),
            *("o:require-tls", "o:skip-verification", "o:sending-ip", "o:sending-ip-pool"),
            *("o:archive-to", "o:deliver-within", "o:suppress-headers"),
        ),
        template=("template",),
        opens=True,
        clicks=True,
        recipients=1000,
        size=25 * 1024 * 1024,
    )

    def __init__(
        self, token: str, domain: str, home: str | None = None, *, tls: Tls = VERIFIED
    ) -> None:
        super().__init__(token, home, tls=tls)
        self.confide(f"api:{token}")  # in base64, as it stands in the header
        if not _DOMAIN.fullmatch(domain):
            raise ConfigurationError(
                "MAIL_TRANSPORT: write mailgun://KEY@DOMAIN, where DOMAIN is the one that you have"
                " at Mailgun, such as mg.example.com"
            )
        self.domain = domain

    def check(self, submission: Submission) -> None:
        """Look at what goes along with the mail, too."""
        super().check(submission)
        self._options(submission)

    def request(self, submission: Submission) -> HttpRequest:
        """Say it in Mailgun's words. The key is the password of a user named api."""
        fields = [("to", ", ".join(submission.recipients)), *self._options(submission)]
        kind, body = _form(fields, submission.content)
        login = b64encode(f"api:{self.token}".encode()).decode()
        return HttpRequest(
            url=f"{self.home}/v3/{self.domain}/messages.mime",
            headers={
                "authorization": f"Basic {login}",
                "accept": "application/json",
                "content-type": kind,
            },
            body=body,
        )

    def _options(self, submission: Submission) -> list[Field]:
        if "template" in submission.provider:
            self.glance(submission)  # for what has no place beside one
        elif submission.sender != submission.author:
            raise UnsupportedFeature(f"{self.name} cannot carry a return_path of its own.")
        said = list(self._said(submission))
        if octets(said) > MOST_OPTIONS:
            raise UnsupportedFeature(
                f"{self.name} cannot carry tags, metadata and options of more than {MOST_OPTIONS}"
                " octets."
            )
        return said

    def _said(self, submission: Submission) -> Iterator[Field]:
        for tag in submission.tags:
            yield "o:tag", tag
        for name, value in self.metadata(submission).items():
            yield f"v:{name}", value
        if submission.track_opens is not None:
            yield "o:tracking-opens", _word(submission.track_opens)
        if submission.track_clicks is not None:
            yield "o:tracking-clicks", _word(submission.track_clicks)
        for name, value in submission.provider.items():
            yield name, _word(value)

    def reference(self, response: HttpResponse) -> str:
        """Find it in ``{"id": "<2026….1.A2C@mg.example.com>"}``; webhooks give it as it is here."""
        return response.text_at("id").strip("<>")


def _word(value: Any) -> str:
    """Say it as a field of a form has it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case _:
            return json.dumps(value)


def _form(fields: Sequence[Field], message: bytes) -> tuple[str, bytes]:
    """Write a form with the mail as a file; give its type, and it.

    The boundary is made of all that it divides, so nothing in there can be written to hold it.
    Names are ours, or of letters that need no quotes.
    """
    digest = sha256(message)
    for name, value in fields:
        digest.update(f"{name}={value}\n".encode())
    boundary = digest.hexdigest()
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="'
    said = [f'{head}{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    file = f'{head}message"; filename="message.eml"\r\nContent-Type: message/rfc822\r\n\r\n'
    body = b"".join((*said, file.encode(), message, f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/form-data; boundary={boundary}", body
