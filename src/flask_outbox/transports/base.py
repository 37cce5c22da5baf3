"""What every way out is: a name, a declaration of what it carries, and a conversation.

``HttpTransport`` is what all that speak HTTP share; a provider adds how a mail is said in its
words, and where its id stands in the answer.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol, TypeAlias

from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import ConfigurationError, UnsupportedFeature, WireError
from flask_outbox.mail.exchange import (
    Answer,
    Close,
    Conversation,
    HttpRequest,
    HttpResponse,
    Open,
    Question,
    Report,
    Sign,
    Tls,
)
from flask_outbox.mail.headers import address_field
from flask_outbox.mail.outcome import Accepted, Outcome, Refused
from flask_outbox.mail.outline import USUAL, Outline, outline
from flask_outbox.mail.route import is_ours
from flask_outbox.mail.submission import ROW, Receipt, Submission
from flask_outbox.mail.unseal import Parts
from flask_outbox.transports.carries import Carries, Words, refuse
from flask_outbox.transports.http_verdict import CREDENTIALS, broken, ours, verdict
from flask_outbox.transports.smtp_secrets import Secrets

__all__ = [
    "VERIFIED",
    "Carries",
    "HttpTransport",
    "Signing",
    "Transport",
    "Words",
    "bearer",
    "in_ascii",
    "octets",
    "texts",
    "unsigned",
]

_LONGEST = 500  # letters that are told of an answer
_HOME = re.compile(r"(https?)://(\[[\d:a-f.]+\]|[\w.-]+)(:\d{1,5})?(/[\w./~-]*)?", re.ASCII)
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")
_SECRET = re.compile(r"[!-~]+")
VERIFIED = Tls()
_PORTS = {"https": 443, "http": 80}


class Transport(Protocol):
    """A way out. Third parties need not import us.

    Where several of one name are ways of one transport, each has its route by ``host``, where it
    is, and by ``identity``, who we are there, if it has these. Of the second only a hash is kept.
    """

    @property
    def name(self) -> str:
        """The scheme in its URL."""
        ...

    @property
    def carries(self) -> Carries:
        """What it can take."""
        ...

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Send them in order; yield a Report for each, once, as soon as it is known."""
        ...


# What is done to it before it leaves by that transport.
Signing: TypeAlias = "Callable[[Submission, Transport], Submission]"


def unsigned(submission: Submission, _transport: Transport) -> Submission:
    """Sign nothing."""
    return submission


class HttpTransport(ABC):
    """A provider's API: one request for one mail.

    A subclass names itself, declares what it carries, and writes ``request`` and ``reference``;
    ``outcomes`` too where the provider answers for each recipient. Status codes, Retry-After,
    limits of time, secrets and what is told of an answer are the same for all and stand here.
    """

    name: ClassVar[str]
    carries: ClassVar[Carries]
    home: str  # where the API is; an app may name another, such as one in the EU
    says: ClassVar[tuple[str | int, ...]] = ("message",)  # where an answer's JSON says why
    at_a_glance: ClassVar[bool] = False  # ``request`` refuses nothing that ``glance`` does not
    seconds: float = 60.0  # for a whole request
    connect: float = 20.0

    def __init__(self, token: str | None, home: str | None = None, *, tls: Tls = VERIFIED) -> None:
        if home is not None:
            self.home = checked_home(home)
        self._secrets = Secrets()
        self.token = "" if token is None else self.confide(token)
        self.tls = tls

    def confide(self, secret: str) -> str:
        """Check what goes into a header as a secret; no text of an answer will show it."""
        if not _SECRET.fullmatch(secret):
            raise ConfigurationError(
                f"MAIL_TRANSPORT: the key of {self.name} has to be printable ASCII without spaces:"
                f" {self.name}://KEY@"
            )
        self._secrets.note(secret)
        return secret

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.home}>"

    @property
    def identity(self) -> str:
        """What tells it apart from others of its kind. Only a mark of it is ever shown."""
        return f"{self.home} {self.token}"

    # --- what a provider writes ---

    @abstractmethod
    def request(self, submission: Submission) -> HttpRequest:
        """Say it in the provider's words; raise UnsupportedFeature for what it has none for."""

    @abstractmethod
    def reference(self, response: HttpResponse) -> str:
        """Find the id that the provider gave it; nothing where there is none."""

    def whole(self, submission: Submission) -> bool:  # noqa: ARG002  for those whom it turns on it
        """Tell whether it goes as it is sealed, and not in parts."""
        return self.carries.raw

    def signing(self, request: HttpRequest) -> Sign | None:  # noqa: ARG002  the same
        """Give the question whose answer is the request with a signature, where it takes one."""
        return None

    def about_us(self, response: HttpResponse) -> bool:  # noqa: ARG002  the same
        """Tell whether a refusal is about our account, where its status does not say so."""
        return False

    def outcomes(self, submission: Submission, response: HttpResponse) -> Mapping[str, Outcome]:
        """Give each recipient's outcome: one for all, unless the provider tells them apart."""
        return Receipt.same(submission, self.verdict(submission, response))

    # --- what all have in common ---

    def check(self, submission: Submission) -> None:
        """Raise UnsupportedFeature for what it cannot carry, before anything is written down."""
        refuse(self.name, self.carries, submission)
        if not self.whole(submission):
            (self.glance if self.at_a_glance else self.request)(submission)

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Send them in order, a request for each."""
        for submission in submissions:
            outcomes = yield from self._sent_in_portions(submission)
            receipt = Receipt({each: outcomes[each] for each in submission.recipients})
            yield Report(submission, receipt)

    def knock(self) -> Conversation:
        """Connect, with verified TLS, and ask for nothing: a key is only tried by sending."""
        ((scheme, host, port, _),) = _HOME.findall(self.home)
        yield Open(
            host.strip("[]"),
            int(port[1:]) if port else _PORTS[scheme],
            self.connect,
            self.tls if scheme == "https" else None,
        )
        yield Close()

    def _portions(self, submission: Submission) -> Iterator[Submission]:
        """Send one by one to those who are hidden, where nobody else is left to stand in To.

        An API that takes parts shows all whom it finds in To to one another.
        """
        if self.whole(submission) or len(submission.recipients) == 1:
            yield submission
            return
        parts = submission.parts()
        shown = {each.addr for each in (*parts.to, *parts.cc)}
        if shown.isdisjoint(submission.recipients):
            for recipient in submission.recipients:
                yield submission.only([recipient])
        else:
            yield submission

    def _sent_in_portions(
        self, submission: Submission
    ) -> Generator[Question, Answer, Mapping[str, Outcome]]:
        """Send it until the provider turns us away: the rest is deferred with the same words.

        Nothing of that has left, and who said 429 is not asked once more for each recipient.
        """
        outcomes: dict[str, Outcome] = {}
        away: Outcome | None = None
        for portion in self._portions(submission):
            found = Receipt.same(portion, away) if away else (yield from self._sent(portion))
            outcomes.update(found)
            away = away or next(filter(is_ours, found.values()), None)
        return outcomes

    def _sent(self, submission: Submission) -> Generator[Question, Answer, Mapping[str, Outcome]]:
        try:
            refuse(self.name, self.carries, submission)
            request = replace(
                self.request(submission), tls=self.tls, seconds=self.seconds, connect=self.connect
            )
        except UnsupportedFeature as error:
            return Receipt.same(submission, Refused(str(error)))
        try:
            if (signing := self.signing(request)) is not None:
                request = yield signing
            response: HttpResponse = yield request
        except WireError as error:
            return Receipt.same(submission, broken(request, error))
        return self.outcomes(submission, response)

    def verdict(self, submission: Submission, response: HttpResponse) -> Outcome:
        """Judge by the status, unless the provider says that it is about us."""
        told = self.told(submission, response)
        outcome = verdict(response, told, self._reference(response))
        if self.about_us(response) and not isinstance(outcome, Accepted):
            return ours(response, told)
        return outcome

    def told(self, submission: Submission, response: HttpResponse) -> str:
        """Say of an answer what may be told: of one to a sensitive mail, its status."""
        words = "" if submission.sensitive else self._words(response)
        hint = f"is the key of {self.name} right?" if response.status in CREDENTIALS else ""
        return " ".join(filter(None, (str(response.status), words, hint)))

    def _words(self, response: HttpResponse) -> str:
        """Give the provider's own words, without what it was told in confidence."""
        hidden = self._secrets.hide(response.text_at(*self.says))
        shown = "".join(
            each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in hidden
        )
        return shown[:_LONGEST]

    def _reference(self, response: HttpResponse) -> str:
        found = self._secrets.hide(self.reference(response))
        return found if found.isprintable() and len(found) <= _LONGEST else ""

    def parts(self, submission: Submission) -> Parts:
        """Take it apart for whom it is still to reach; raise for what has no place in parts."""
        self.glance(submission)
        return submission.parts().for_whom(submission.recipients)

    def glance(self, submission: Submission) -> Outline:
        """Raise for what has no place in parts, without taking it apart."""
        seen = outline(submission.content)
        for what in (*self._out_of_place(submission, seen), *self._unworded(submission, seen)):
            raise UnsupportedFeature(f"{self.name} cannot carry {what}.")
        return seen

    def _out_of_place(self, submission: Submission, seen: Outline) -> Iterator[str]:
        if others := [each for each in seen.texts if each not in {"plain", "html"}]:
            yield f"{', '.join(f'text/{each}' for each in others)} besides text and HTML"
        if any(each.fields.keys() - USUAL for each in seen.attachments):
            yield "headers of an attachment"
        if not (self.carries.empty or all(each.content for each in seen.attachments)):
            yield "an attachment that is empty"
        if own := [name for name in seen.names if name.lower() in self.carries.reserved]:
            yield f"a header {own[0]} of your own"
        taken = self.carries.envelope or self.carries.return_path
        if submission.sender != seen.author and not taken:
            yield "a return_path of its own"

    def _unworded(self, submission: Submission, seen: Outline) -> Iterator[str]:
        titled = bool(seen.fields.get("subject"))
        written = any(each.text.strip() for each in seen.texts.values())
        if any(name in submission.provider for name in self.carries.template):
            if written or titled:
                yield "a subject or a text besides a template"
            if seen.attachments and not self.carries.template_files:
                yield "attachments besides a template"
        elif not written:
            yield "a mail without a text"
        elif not (self.carries.untitled or titled):
            yield "a mail without a subject"

    def metadata(self, submission: Submission) -> dict[str, str]:
        """Give the app's metadata with our row's id, by which what we hear later is tied to it."""
        own = {ROW: submission.id} if submission.id else {}
        return {**submission.metadata, **own}


def checked_home(home: str) -> str:
    """Check a base URL: https, or http on this machine; no slash at its end."""
    found = _HOME.fullmatch(home)
    if found is None or (found[1] == "http" and not _LOOPBACK.fullmatch(found[2])):
        raise ConfigurationError(
            "MAIL_TRANSPORT: home= has to be an https:// URL, without a user, ? or #"
            " (http:// on this machine alone)"
        )
    return home.rstrip("/")


def bearer(token: str) -> dict[str, str]:
    """Give the header of RFC 6750."""
    return {"Authorization": f"Bearer {token}"}


def texts(addresses: Sequence[Address]) -> list[str]:
    """Write addresses as a header would, names in Unicode."""
    return [str(each) for each in addresses]


def octets(named: Iterable[tuple[str, str]]) -> int:
    """Count what names and values take in UTF-8."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in named)


def in_ascii(address: Address) -> str:
    """Write an address as a header has it on the wire: a name in encoded words."""
    return address_field("To", [address]).partition(":")[2].replace("\r\n", "").strip()
