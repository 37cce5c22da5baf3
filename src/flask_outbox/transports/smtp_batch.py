"""Where every message of a batch stands on one line, and what a break means for each.

The dialogues (smtp_dialogue.py) say what they heard; this keeps count, without a word on the
wire. A submission is reported once, when all of its recipients have their outcome.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from enum import Enum

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Report, SmtpReply
from flask_outbox.mail.outcome import Deferred, Fault, Outcome, Refused, Unclear
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.smtp_envelope import dotted, has_dots, obstacle, plain, smuggles
from flask_outbox.transports.smtp_replies import (
    CLOSING,
    CONTENT,
    GO_ON,
    Closing,
    OutOfStep,
    accepted,
    tells,
    too_many,
    verdict,
)
from flask_outbox.transports.smtp_secrets import brief
from flask_outbox.transports.smtp_session import Session


class Watch(Enum):
    """What is looked at besides the number in a reply, where BDAT lets replies come in a row."""

    NONE = 0
    LEARN = 1  # see whether this server's replies tell what they answer
    HOLD = 2  # they do; one that stands elsewhere is out of step


class Transaction:
    """One submission under way: MAIL, RCPT, content; and once more for an overflow."""

    __slots__ = (
        "begun",
        "dots",
        "ends_at",
        "outcomes",
        "overflow",
        "recipients",
        "reset",
        "submission",
        "taken",
        "watch",
    )

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.recipients = submission.recipients  # those of this transaction
        self.outcomes: dict[str, Outcome] = {}
        self.taken: list[str] = []  # by RCPT
        self.overflow: list[str] = []  # too many for one transaction
        self.begun = False  # MAIL was answered
        self.reset = False  # RSET leads it
        self.watch = Watch.NONE
        self.dots = True  # a line of its content begins with one
        self.ends_at = 0  # how far into the Write under way its content reaches; 0: it is out

    def give(self, recipients: Iterable[str], outcome: Outcome) -> None:
        """Give these recipients their outcome; the first one stands."""
        for recipient in recipients:
            self.outcomes.setdefault(recipient, outcome)

    def report(self) -> Report:
        """Say what became of it, in the order of the envelope."""
        outcomes = self.outcomes
        whole = {recipient: outcomes[recipient] for recipient in self.submission.recipients}
        return Report(self.submission, Receipt(whole))

    def content(self) -> tuple[bytes, bytes]:
        """Give the content and its end, as DATA wants them."""
        content = self.submission.content
        return dotted(content) if self.dots else plain(content)

    def again(self, recipients: Iterable[str]) -> None:
        """Begin anew with those who have no outcome yet."""
        self.recipients = tuple(recipients)
        self.taken = []
        self.overflow = []
        self.begun = False
        self.ends_at = 0


class Batch:
    """The messages that one line is to carry."""

    __slots__ = ("_room", "current", "flying", "session", "settled", "untried", "waiting", "wound")

    def __init__(self, waiting: deque[Transaction], session: Session, room: int) -> None:
        self.waiting = waiting
        self.session = session
        self.settled: deque[Report] = deque()  # to be reported
        self.flying: deque[Transaction] = deque()  # content written or being written, unanswered
        self.current: Transaction | None = None  # its envelope is being answered
        self.wound: WireError | None = None  # a Write broke; what was said may still be read
        self.untried = session.worn  # it rested, and has not been heard of since
        self._room = room

    # --- whose turn it is ---

    def peek(self) -> Transaction | None:
        """Find the next that this server can take; those that it cannot are settled."""
        while self.waiting and self._room > 0:
            mail = self.waiting[0]
            reason = obstacle(mail.submission, self.session)
            if not reason:
                content = mail.submission.content
                mail.dots = has_dots(content)
                if not (mail.dots and smuggles(content)):
                    return mail
                reason = "the content has a bare CR or LF before a dot, which could end it early"
            self.waiting.popleft()
            mail.give(mail.recipients, Refused(reason))
            self.settle(mail)
        return None

    def take(self) -> Transaction | None:
        """Begin the next."""
        mail = self.peek()
        if mail is not None:
            self.waiting.popleft()
            self._room -= 1
            self.session.carried += 1
        return mail

    def settle(self, mail: Transaction) -> None:
        """Its transaction is over: report it, or queue what did not fit into it."""
        if mail.overflow:
            mail.again(mail.overflow)
            self.waiting.appendleft(mail)
        else:
            self.settled.append(mail.report())

    def reports(self) -> Iterator[Report]:
        """Hand out what is settled, each once."""
        while self.settled:
            yield self.settled.popleft()

    # --- what was heard ---

    def told(self, reply: SmtpReply, mail: Transaction | None = None) -> SmtpReply:
        """Give the reply as it may be told: by codes alone where it may quote a sensitive mail."""
        for each in (mail or self.current, *self.flying):
            if each is not None and each.submission.sensitive:
                return brief(reply)
        return self.session.secrets.clean(reply)

    def heard_mail(self, mail: Transaction, reply: SmtpReply) -> None:
        """Take in the reply to MAIL."""
        code = reply.code
        if code == CLOSING:
            raise Closing(self.told(reply, mail))
        self._watch(mail, "MAIL", reply)
        if 200 <= code < 300:  # noqa: PLR2004  the class of a reply is its first digit
            self.session.dirty = True
        else:
            mail.give(mail.recipients, verdict("MAIL", self.told(reply, mail)))
        mail.begun = True

    def heard_rcpt(self, mail: Transaction, recipient: str, reply: SmtpReply) -> None:
        """Take in the reply to RCPT; of no interest when MAIL had failed."""
        code = reply.code
        if code == CLOSING:
            raise Closing(self.told(reply, mail))
        self._watch(mail, "RCPT", reply)
        if recipient in mail.outcomes:
            return
        if 200 <= code < 300:  # noqa: PLR2004  the class of a reply is its first digit
            mail.taken.append(recipient)
        elif mail.taken and too_many(reply):
            mail.overflow.append(recipient)
        else:
            mail.outcomes[recipient] = verdict("RCPT", self.told(reply, mail))

    def heard_data(self, mail: Transaction, reply: SmtpReply) -> bool:
        """Take in the reply to DATA; tell whether the server now waits for content."""
        code = reply.code
        if code == CLOSING:
            raise Closing(self.told(reply, mail))
        if code == GO_ON:
            return True
        mail.give(mail.taken, verdict("DATA", self.told(reply, mail)))
        return False

    def heard_content(self, mail: Transaction, reply: SmtpReply) -> None:
        """Take in the reply to the whole content, and settle it."""
        code = reply.code
        self._watch(mail, CONTENT, reply)
        reply = self.told(reply, mail)
        if 200 <= code < 300:  # noqa: PLR2004  the class of a reply is its first digit
            if not self.is_out(mail):
                # It answers for less than we sent: nothing that can be built on.
                raise OutOfStep("half the content", reply)
            mail.give(mail.taken, accepted(reply))
            if mail.watch is Watch.LEARN:
                self.session.tells = True
        else:
            mail.give(mail.taken, verdict(CONTENT, reply))
        if code == CLOSING:
            raise Closing(reply)
        self.session.dirty = False
        self.session.worn = True

    def _watch(self, mail: Transaction, verb: str, reply: SmtpReply) -> None:
        """See to it that no yes is taken for another one."""
        if mail.watch is Watch.NONE or tells(verb, reply):
            return
        if mail.watch is Watch.HOLD:
            raise OutOfStep(verb, self.told(reply, mail))
        mail.watch = Watch.NONE  # nothing to be learnt from it

    def is_out(self, mail: Transaction) -> bool:
        """Tell whether the last byte of its content went to the kernel."""
        return self.wound is None or self.wound.sent >= mail.ends_at

    # --- a break ---

    def breaks(self, error: WireError) -> bool:
        """Say what the break means for each message; tell whether to go on with a fresh line.

        A worn line that goes at MAIL was gone before it: same attempt, on another line.
        """
        self._hear_last_word()
        if self.wound is not None and not isinstance(error, Closing):
            error = self.wound
        closing = isinstance(error, Closing)
        written = [mail for mail in self.flying if not closing and self.is_out(mail)]
        under_way = [*self.flying, *([self.current] if self.current else [])]
        self.flying.clear()
        self.current = None
        if self.session.worn and under_way and not under_way[0].begun and not written:
            for mail in reversed(under_way):
                mail.again(mail.recipients)
                self.waiting.appendleft(mail)
            return True
        self._blame(under_way, written, error)
        self.let_go(Deferred(str(error), Fault.NONE))
        return False

    def _hear_last_word(self) -> None:
        """Let a reply that came with the break of a Write decide over it (552, then RST)."""
        wound = self.wound
        if wound is None or wound.reply is None or len(self.flying) != 1:
            return
        mail = self.flying[0]
        if mail.begun and mail.taken:
            with suppress(WireError):
                self.heard_content(mail, wound.reply)

    def _blame(
        self, under_way: list[Transaction], written: list[Transaction], error: WireError
    ) -> None:
        """Out to its last byte: Unclear. The one whose own step broke: Deferred. Behind: free."""
        innocent = Deferred(str(error), Fault.NONE)
        own = innocent if written else self._own(under_way, error)
        for mail in under_way:
            mail.give(mail.overflow, innocent)
            if mail in written:
                mail.give(
                    mail.recipients, Unclear(f"it went out whole, but no answer came: {error}")
                )
            else:
                mail.give(mail.recipients, own)
                own = innocent
            self.settled.append(mail.report())

    @staticmethod
    def _own(under_way: list[Transaction], error: WireError) -> Deferred:
        if isinstance(error, Closing) and under_way and not under_way[0].begun:
            return Deferred(str(error), Fault.OURS)
        return Deferred(str(error), Fault.TRANSIENT)

    def let_go(self, outcome: Outcome) -> None:
        """Give all who still wait this outcome."""
        while self.waiting:
            mail = self.waiting.popleft()
            mail.give(mail.submission.recipients, outcome)
            self.settled.append(mail.report())
