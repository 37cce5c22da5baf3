"""Resend: one JSON object for one mail.

Read on 2026-11-29: resend.com/docs/api-reference/emails/send-email, …/api-reference/errors and
…/dashboard/emails/tags and …/idempotency-keys.
Message-ID and Date of the mail are Resend's own.
"""

from base64 import b64encode
from collections.abc import Iterator

from flask_outbox.mail.exchange import HttpRequest, HttpResponse
from flask_outbox.mail.submission import Submission
from flask_outbox.mail.unseal import Parts
from flask_outbox.transports.base import Carries, HttpTransport, Words, bearer, texts

_WORD = r"[A-Za-z0-9_-]{1,256}"


class Resend(HttpTransport):
    """The way out. Our tags and metadata are Resend's tags: a name, a value, 75 with our row's."""

    name = "resend"
    home = "https://api.resend.com"
    at_a_glance = True
    carries = Carries(
        raw=False,
        envelope=False,
        utf8=False,
        untitled=False,
        tags=Words(most=24, names=_WORD),
        metadata=Words(most=50, names=_WORD, values=_WORD),
        one_space=True,
        empty=False,
        provider=("template", "topic_id"),
        template=("template",),
        idempotency=True,
        recipients=50,
        size=40 * 1024 * 1024,
    )

    def request(self, submission: Submission) -> HttpRequest:
        """Say it in Resend's words; the key lets Resend drop a repeat, for 24 hours."""
        parts = self.parts(submission)
        alone = {"text": ""} if parts.html and parts.text is None else {}
        return HttpRequest.json(
            f"{self.home}/emails",
            headers={**bearer(self.token), "Idempotency-Key": submission.idempotency_key},
            body={
                "from": str(parts.sender),
                "to": texts(parts.to),
                "cc": texts(parts.cc),
                "bcc": texts(parts.bcc),
                "reply_to": texts(parts.reply_to),
                "subject": parts.subject,
                "text": parts.text,
                "html": parts.html,
                "headers": dict(parts.headers),
                "tags": list(self._tags(submission)),
                "attachments": list(_attachments(parts)),
            },
            extra={**alone, **submission.provider},  # an empty text: none is to be made of it
        )

    def _tags(self, submission: Submission) -> Iterator[dict[str, str]]:
        for name, value in self.metadata(submission).items():
            yield {"name": name, "value": value}
        for tag in submission.tags:
            yield {"name": tag, "value": "true"}

    def reference(self, response: HttpResponse) -> str:
        """Find it in ``{"id": "49a3999c-…"}``."""
        return response.text_at("id")


def _attachments(parts: Parts) -> Iterator[dict[str, str]]:
    for each in parts.attachments:
        yield {
            "filename": each.filename or "",
            "content": b64encode(each.data).decode(),
            "content_type": each.media_type,
            "content_id": each.cid,
        }
