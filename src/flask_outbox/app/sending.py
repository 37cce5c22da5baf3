"""Send now: carry one submission, and say what became of it."""

import smtplib
from collections.abc import Callable, Sequence
from typing import Any

from flask_outbox.app.failover import Health, Way, tries
from flask_outbox.app.masking import masked
from flask_outbox.app.overhear import Heard, overhear
from flask_outbox.mail.errors import OutboxError, WireError
from flask_outbox.mail.outcome import Deferred, Outcome, Refused, Unclear
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.base import Signing, Transport, unsigned
from flask_outbox.transports.http_verdict import CREDENTIALS
from flask_outbox.transports.smtp_auth import AUTH_REFUSED
from flask_outbox.transports.smtp_replies import is_no_relay
from flask_outbox.wire import sync

LOGIN_CODES = frozenset({530, 534, 535, 538})  # RFC 4954 section 6

LEFT = {
    True: "The mail may have left: the server took all of it and its answer did not arrive.",
    False: "The mail did not leave.",
}


class SendError(OutboxError, smtplib.SMTPException):
    """Nobody accepted the mail. ``receipt`` has the outcome for each recipient.

    The text says what failed, whether the mail may have left, and what to do.
    """

    def __init__(self, text: str, receipt: Receipt | None = None) -> None:
        OSError.__init__(self, text)
        self.receipt = Receipt() if receipt is None else receipt

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it pass through a task queue."""
        return type(self), (*self.args, self.receipt)

    @property
    def may_have_left(self) -> bool:
        """Tell whether sending it again may give somebody a second copy."""
        return bool(self.receipt.unclear)


class ServerUnreachable(SendError, ConnectionRefusedError):  # noqa: N818  says what happened
    """Nobody listens where we were told to send."""


class AuthenticationRefused(SendError, smtplib.SMTPAuthenticationError):  # noqa: N818  the same
    """The server did not take the credentials."""

    def __init__(self, text: str, receipt: Receipt | None = None, code: int = 535) -> None:
        super().__init__(text, receipt)
        self.smtp_code = code
        self.smtp_error = _reasons(self.receipt)


class RecipientsRefused(SendError, smtplib.SMTPRecipientsRefused):  # noqa: N818  the same
    """The server takes the mail for none of the recipients."""

    def __init__(self, text: str, receipt: Receipt | None = None) -> None:
        super().__init__(text, receipt)
        self.recipients = {each: _as_smtplib(o) for each, o in self.receipt.items()}


def _as_smtplib(outcome: Outcome) -> tuple[int, bytes]:
    text = getattr(outcome, "text", "")
    code = text[:3]
    return (int(code), text[4:].encode()) if code.isdigit() else (550, text.encode())


def _reasons(receipt: Receipt) -> str:
    texts = dict.fromkeys(masked(getattr(outcome, "text", "")) for outcome in receipt.values())
    return "; ".join(filter(None, texts)) or "no reason was given"


def _refused_to_connect(error: WireError | None) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _what_to_do(receipt: Receipt) -> str:
    outcomes = list(receipt.values())
    if any(isinstance(each, Unclear) for each in outcomes):
        return "Sending it again may give the recipients a second copy."
    if all(isinstance(each, Refused) for each in outcomes):
        return "Correct the address or the message: asking again will not help."
    if any(isinstance(each, Deferred) for each in outcomes):
        return "Try again later, or use mail.send_later, which does so by itself."
    return "Look at the receipt."


def failure(receipt: Receipt, heard: Heard, *, where: str, configured: bool = True) -> SendError:
    """Put into words, and into the exception that old code catches, why nobody accepted it."""
    reasons = _reasons(receipt)
    head = f"Not accepted ({where}): {reasons}. {LEFT[bool(receipt.unclear)]}"
    code = next((each for each in heard.complaints if each in LOGIN_CODES), 0)
    if code or AUTH_REFUSED in reasons or (receipt.deferred and is_no_relay(reasons)):
        return AuthenticationRefused(
            f"{head} The server wants other credentials: check MAIL_USERNAME and MAIL_PASSWORD,"
            " and MAIL_USE_TLS if it wants TLS first.",
            receipt,
            code or 535,
        )
    if not CREDENTIALS.isdisjoint(heard.complaints):
        return AuthenticationRefused(f"{head} Check the key in MAIL_TRANSPORT.", receipt)
    if _refused_to_connect(heard.error):
        fix = (
            "Is the server running, and are MAIL_SERVER and MAIL_PORT right?"
            if configured
            else "No mail server was configured, and nobody listens on the default: set MAIL_SERVER"
            " and MAIL_PORT, or MAIL_TRANSPORT (MAIL_TRANSPORT='console://' prints mails instead)."
        )
        return ServerUnreachable(f"{head} {fix}", receipt)
    if receipt and len(receipt.refused) == len(receipt):
        return RecipientsRefused(f"{head} {_what_to_do(receipt)}", receipt)
    return SendError(f"{head} {_what_to_do(receipt)}", receipt)


def settle(receipts: Sequence[Receipt], submission: Submission) -> Receipt:
    """Take the receipt; a transport that said nothing leaves us in doubt."""
    if receipts:
        return receipts[0]
    return Receipt.same(submission, Unclear("the transport did not say what became of it"))


def answer(receipt: Receipt, heard: Heard, tried: Sequence[str], *, configured: bool) -> Receipt:
    """Give the receipt back, or raise SendError when nobody accepted it."""
    if receipt.accepted:
        return receipt
    raise failure(receipt, heard, where=", then ".join(tried), configured=configured)


class Host:
    """What a Connection hands its mail to: shaped like smtplib.SMTP, as far as Flask-Mail uses it.

    ``sealed`` is the submission whose content comes next, if it is one of ours.
    """

    def __init__(  # noqa: PLR0913  what the app and its settings decide
        self,
        way: Callable[[str], Way],
        health: Health,
        sign: Signing,
        pool: sync.Pool,
        *,
        seconds: float,
        debug: bool = False,
        configured: bool = True,
    ) -> None:
        self.sealed: Submission | None = None
        self._way = way
        self._health = health
        self._sign = sign
        self._pool = pool
        self._seconds = seconds
        self._debug = debug
        self._configured = configured

    def sendmail(
        self,
        from_addr: str,
        to_addrs: Sequence[str],
        msg: bytes,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> Receipt:
        """Send it and wait for the answer; raise SendError when nobody accepted it."""
        submission = self.sealed
        sign = self._sign
        if submission is None or submission.content is not msg:
            sign = unsigned  # octets of the app's own
            submission = Submission(
                sender=from_addr,
                recipients=tuple(to_addrs),
                content=msg,
                message_id="",
                date=0.0,
                utf8=not (from_addr + "".join(to_addrs)).isascii(),
                mail_options=tuple(mail_options),
                rcpt_options=tuple(rcpt_options),
            )
        tried: list[str] = []
        heard = Heard(debug=self._debug)
        trying = tries(self._way(submission.transport), self._health, submission)
        try:
            transport, one = next(trying)
            while True:
                tried.append(transport.name)
                heard = Heard(debug=self._debug)
                receipt = self._carry(transport, sign(one, transport), heard)
                transport, one = trying.send(receipt)
        except StopIteration as over:
            return answer(over.value, heard, tried, configured=self._configured)

    def _carry(self, transport: Transport, submission: Submission, heard: Heard) -> Receipt:
        conversation = overhear(transport.send([submission]), heard)
        carried = sync.carry(conversation, self._pool, seconds=self._seconds)
        return settle([report.receipt for report in carried], submission)

    def quit(self) -> None:
        """Do nothing: the line rests, and serves the next message or is closed when it is old."""
