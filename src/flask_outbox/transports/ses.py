"""Amazon SES, version 2 of its API: the sealed mail as it is, or a template of SES.

Read on 2026-11-29: botocore 1.44's service model of sesv2, of which API_SendEmail in the reference
is made, and docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages and …/header-fields.
FromEmailAddress stands beside a template alone: SES would write it over From. Message-ID and Date
are SES's own.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from flask_outbox.mail.errors import ConfigurationError, UnsupportedFeature
from flask_outbox.mail.exchange import Conversation, HttpRequest, HttpResponse, Sign, Tls
from flask_outbox.mail.outcome import Outcome, Refused
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import VERIFIED, Carries, HttpTransport, Words, in_ascii

STATUS = {None: "", True: "ENABLED", False: "DISABLED"}
WRITE = "write ses://?region=eu-west-1, or ses://ID:SECRET@?region=eu-west-1"
MISSING = "ses takes a package: pip install 'flask-outbox[ses]'"
_WORD = r"[A-Za-z0-9_-]{1,256}"
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_KEY_ID = re.compile(r"[A-Z0-9]{4,128}")
OURS = frozenset(  # with HTTP 400, and yet about the account, its limits, its key or our clock
    {
        *("AccountSuspendedException", "SendingPausedException", "LimitExceededException"),
        *("MailFromDomainNotVerifiedException", "TooManyRequestsException", "RequestExpired"),
        *("ThrottlingException", "AccessDeniedException", "ExpiredTokenException"),
        *("IncompleteSignature", "NotAuthorized"),
    }
)
NOT_FOUND = (404, "NotFoundException")  # a template, configuration set, contact list or tenant


class Ses(HttpTransport):
    """The way out. Our tags and metadata are message tags, as are those of events later."""

    name = "ses"
    carries = Carries(
        # It sets Date and Message-ID itself ("Amazon SES header fields", read 2026-11-29).
        signature=False,
        envelope=False,
        return_path=True,
        utf8=False,
        tags=Words(most=24, names=_WORD),
        metadata=Words(most=25, names=_WORD, values=_WORD),
        one_space=True,
        provider=(
            *("Template", "ConfigurationSetName", "ListManagementOptions", "TenantName"),
            *("FromEmailAddressIdentityArn", "FeedbackForwardingEmailAddressIdentityArn"),
        ),
        template=("Template",),
        template_files=False,
        opens=True,
        clicks=True,
        recipients=50,
        size=40 * 1024 * 1024,
    )

    def __init__(
        self,
        region: str,
        account: tuple[str, str] | None = None,
        home: str | None = None,
        *,
        configuration_set: str = "",
        tls: Tls = VERIFIED,
    ) -> None:
        if not _REGION.fullmatch(region) or (account and not _KEY_ID.fullmatch(account[0])):
            raise ConfigurationError(f"MAIL_TRANSPORT: {WRITE}")
        if find_spec("botocore") is None:
            raise ConfigurationError(f"MAIL_TRANSPORT: {MISSING}")
        self.home = f"https://email.{region}.amazonaws.com{'.cn' * region.startswith('cn-')}"
        super().__init__(account[1] if account else None, home, tls=tls)
        self.region, self.account, self.configuration_set = region, account, configuration_set

    @property
    def identity(self) -> str:
        """The id of the key, which is no secret; the machine's own credentials have none."""
        key = self.account[0] if self.account else ""
        return f"{self.home} {key} {self.configuration_set}"

    def whole(self, submission: Submission) -> bool:
        """Tell whether it goes as it is sealed: what names a template does not."""
        return "Template" not in submission.provider

    def request(self, submission: Submission) -> HttpRequest:
        """Say it in the words of SendEmail."""
        extra = dict(submission.provider)
        template = extra.pop("Template", None)
        whole = self.whole(submission)
        say = self._sealed(submission) if whole else self._filled(submission, template)
        tags = [*self.metadata(submission).items(), *((tag, "true") for tag in submission.tags)]
        own = submission.sender != submission.author
        opens, clicks = STATUS[submission.track_opens], STATUS[submission.track_clicks]
        return HttpRequest.json(
            f"{self.home}/v2/email/outbound-emails",
            headers={},
            body={
                **say,
                "FeedbackForwardingEmailAddress": submission.sender if own else "",
                "EmailTags": _pairs(tags),
                "ConfigurationSetName": self.configuration_set,
                "ConfigurationOverrides": {
                    "Tracking": {"OpenTrackingEnabled": opens, "ClickTrackingEnabled": clicks}
                },
            },
            extra=extra,
        )

    def _sealed(self, submission: Submission) -> dict[str, Any]:
        return {
            "Content": {"Raw": {"Data": b64encode(submission.content).decode()}},
            "Destination": {"ToAddresses": list(submission.recipients)},
        }

    def _filled(self, submission: Submission, template: Any) -> dict[str, Any]:
        parts = self.parts(submission)
        if not isinstance(template, dict):
            raise UnsupportedFeature(f"{self.name} cannot carry a Template that is no object.")
        people = {"To": parts.to, "Cc": parts.cc, "Bcc": parts.bcc}
        return {
            "FromEmailAddress": in_ascii(parts.sender),
            "ReplyToAddresses": list(map(in_ascii, parts.reply_to)),
            "Destination": {f"{to}Addresses": list(map(in_ascii, people[to])) for to in people},
            "Content": {"Template": {**template, "Headers": _pairs(parts.headers)}},
        }

    def knock(self) -> Conversation:
        """Find the machine's credentials too, where none were given; what is signed stays here."""
        if self.account is None:
            yield self.signing(HttpRequest(url=f"{self.home}/"))
        yield from super().knock()

    def signing(self, request: HttpRequest) -> Sign:
        """Have it signed, with the key that we were given or the one that the machine has."""
        return Sign(request=request, service="ses", region=self.region, account=self.account)

    def reference(self, response: HttpResponse) -> str:
        """Find it in ``{"MessageId": "0100018…-000000"}``."""
        return response.text_at("MessageId")

    def verdict(self, submission: Submission, response: HttpResponse) -> Outcome:
        """Blame a mail for what is not there where it has named something itself."""
        if (response.status, _kind(response)) == NOT_FOUND and self._named(submission, response):
            names = ", ".join(submission.provider)
            return Refused(f"{self.told(submission, response)} (see provider=: {names})")
        return super().verdict(submission, response)

    def _named(self, submission: Submission, response: HttpResponse) -> bool:
        """Tell whether the mail has named what is not there, and not our URL."""
        if "configuration set" in response.text_at("message").lower():
            return "ConfigurationSetName" in submission.provider
        return bool(submission.provider)

    def about_us(self, response: HttpResponse) -> bool:
        """Tell by the kind of error: of those with HTTP 400 many are about the account."""
        return _kind(response) in OURS or "not verified" in response.text_at("message")

    def _words(self, response: HttpResponse) -> str:
        """Name the kind; words about a wrong signature repeat the request, with its token."""
        words = super()._words(response)
        shown = "" if "security-token" in words.lower() else words
        return ": ".join(filter(None, (_kind(response), shown)))


def _kind(response: HttpResponse) -> str:
    """Find the kind of an error: ``MessageRejected:http://…`` in a field, or in the body."""
    text = response.header("x-amzn-errortype") or response.text_at("__type")
    kind = text.partition(":")[0].rpartition("#")[2]
    return kind if kind.isascii() and kind.isalpha() else ""


def _pairs(named: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"Name": name, "Value": value} for name, value in named]
