"""What is said on a line that is logged in, in three ways: by what the server offers.

``in_lockstep``  one command, one reply: for servers without PIPELINING.
``in_groups``    MAIL, RCPT and DATA as one group, and the content of one message in one Write
                 with the group of the next (RFC 2920): one round trip a message. The group of
                 n+1 leaves only with the content of n, so only after n's 354.
``in_chunks``    BDAT (RFC 3030): up to ``window`` messages on their way, unanswered, once a first
                 one, with DATA, has shown that this server's replies cannot be mistaken for one
                 another.

An unwanted 354 is ended with a lone dot whose reply is ignored, and RSET leads the next group.
When a Write breaks, the replies that came before the break are still read.
"""

import sys
from collections.abc import Generator, Sequence

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Answer, Question, Read, SmtpReply, Write
from flask_outbox.transports.smtp_batch import Batch, Transaction, Watch
from flask_outbox.transports.smtp_envelope import mail_command, rcpt_command
from flask_outbox.transports.smtp_replies import CLOSING, Closing, OutOfStep
from flask_outbox.transports.smtp_secrets import GuardedRead
from flask_outbox.transports.smtp_timeouts import Timeouts

Talk = Generator[Question, Answer, None]
Hearing = Generator[Question, Answer, SmtpReply]
Group = tuple[bytes, int]  # commands, and how many replies they draw
Knowing = Generator[Question, Answer, bool]
Giving = Generator[Question, Answer, Transaction | None]

RSET = b"RSET\r\n"
DATA = b"DATA\r\n"
DOT = b".\r\n"
MOST_AT_ONCE = 100  # recipients in one group: so that both sides never wait to be read


class Dialogue:
    """One line, one batch, one way of speaking."""

    __slots__ = ("_batch", "_command", "_dot", "_rcpt", "_reply", "_times", "_window")

    def __init__(self, batch: Batch, times: Timeouts, window: int) -> None:
        self._batch = batch
        self._times = times
        self._window = window
        self._reply = GuardedRead(times.command, batch.told)
        self._rcpt = GuardedRead(times.rcpt, batch.told)
        self._dot = GuardedRead(times.dot, batch.told)

    def run(self) -> Talk:
        """Speak as the server can hear it."""
        session = self._batch.session
        if not session.pipelining:
            return self.in_lockstep()
        return self.in_chunks() if session.chunking else self.in_groups()

    # --- one command, one reply ---

    def in_lockstep(self) -> Talk:
        """Wait for each reply before the next command."""
        batch = self._batch
        while (mail := batch.take()) is not None:
            yield from batch.reports()
            batch.current = mail
            if (yield from self._envelope_in_steps(mail)):
                content, end = mail.content()
                yield from self._write(mail, (content, end), len(content) + len(end), 1)
                batch.heard_content(mail, (yield self._dot))
                batch.flying.clear()
            batch.current = None
            batch.settle(mail)
        yield from batch.reports()

    def _envelope_in_steps(self, mail: Transaction) -> Knowing:
        batch, session, submission = self._batch, self._batch.session, mail.submission
        if session.dirty:
            self._heard_rset((yield from self._ask(RSET, self._reply)))
        command = mail_command(submission, session)
        batch.heard_mail(mail, (yield from self._ask(command, self._reply)))
        for recipient in mail.recipients:
            if recipient not in mail.outcomes:
                command = rcpt_command(recipient, submission, session)
                batch.heard_rcpt(mail, recipient, (yield from self._ask(command, self._rcpt)))
        if not mail.taken:
            return False
        return batch.heard_data(mail, (yield from self._ask(DATA, self._reply)))

    def _ask(self, command: bytes, read: Read) -> Hearing:
        yield Write((command,), self._times.block)
        reply: SmtpReply = yield read
        return reply

    # --- groups ---

    def in_groups(self) -> Talk:
        """Send the content of one message with the envelope of the next."""
        batch = self._batch
        given: Transaction | None = None
        while True:
            upcoming = batch.take()
            yield from batch.reports()
            if given is None and upcoming is None:
                return
            given = yield from self._next_group(given, upcoming)

    def _next_group(self, given: Transaction | None, upcoming: Transaction | None) -> Giving:
        """Send the content of the one that has its 354, and the envelope of the next.

        Give back the next if it got its own 354. One that nobody takes is settled by then, and a
        lone dot stands in for its content.
        """
        batch, session = self._batch, self._batch.session
        ready = given is not None and bool(given.taken)
        groups: Sequence[Group] = ((b"", 0),)
        if upcoming is not None:
            upcoming.reset = session.dirty and not ready
            groups = self._groups(upcoming, DATA)
            batch.current = upcoming
        lead, owed = groups[0]
        if given is None:
            yield from self._write(None, (lead,), 0, owed)
        elif ready:
            content, end = given.content()
            ends_at = len(content) + len(end)
            yield from self._write(given, (content, end + lead), ends_at, owed + 1)
            batch.heard_content(given, (yield self._dot))
            batch.flying.clear()
            batch.settle(given)
            yield from batch.reports()
        else:
            yield from self._write(None, (DOT + lead,), 0, owed + 1)
            self._heard_lone_dot((yield self._dot))
        if upcoming is None:
            return None
        yield from self._hear_envelope(upcoming, groups)
        asked = batch.heard_data(upcoming, (yield self._reply))
        if asked:
            session.dirty = True
        batch.current = upcoming if asked and upcoming.taken else None
        if batch.current is None:
            batch.settle(upcoming)
        return upcoming if asked else None

    def _groups(self, mail: Transaction, last: bytes) -> Sequence[Group]:
        """Build the envelope in groups of bounded size; ``last`` ends the last one."""
        submission, session, recipients = mail.submission, self._batch.session, mail.recipients
        lead = mail_command(submission, session)
        if mail.reset:
            lead = RSET + lead
        owed = 1 + mail.reset
        if len(recipients) == 1:
            rcpt = rcpt_command(recipients[0], submission, session)
            return ((lead + rcpt + last, owed + 2),)
        groups: list[Group] = []
        for start in range(0, len(recipients), MOST_AT_ONCE):
            some = recipients[start : start + MOST_AT_ONCE]
            commands = b"".join(rcpt_command(each, submission, session) for each in some)
            groups.append((lead + commands, owed + len(some)))
            lead, owed = b"", 0
        commands, owed = groups[-1]
        groups[-1] = (commands + last, owed + 1)
        return groups

    def _hear_envelope(self, mail: Transaction, groups: Sequence[Group]) -> Talk:
        """Read the replies to RSET, MAIL and RCPT; the groups after the first go out on the way."""
        batch = self._batch
        if mail.reset:
            self._heard_rset((yield self._reply))
        batch.heard_mail(mail, (yield self._reply))
        for at, recipient in enumerate(mail.recipients):
            if at and at % MOST_AT_ONCE == 0:
                commands, owed = groups[at // MOST_AT_ONCE]
                yield from self._write(None, (commands,), 0, owed)
            batch.heard_rcpt(mail, recipient, (yield self._rcpt))

    # --- chunks ---

    def in_chunks(self) -> Talk:
        """Keep up to ``window`` messages on their way."""
        batch = self._batch
        flying = batch.flying
        while True:
            upcoming = batch.peek() if len(flying) < self._window else None
            yield from batch.reports()
            if flying and (upcoming is None or batch.wound is not None or self._careful(upcoming)):
                yield from self._land()
            elif upcoming is None:
                return
            else:
                batch.take()
                yield from self._launch(upcoming)

    def _careful(self, mail: Transaction) -> bool:
        """Tell whether its content has to wait for a 354, which is no answer to anything else.

        A server that was not heard yet may hang up at MAIL, or give one reply too many, and the
        250 of RCPT would be the content's. A line that has rested may be dead and not know it.
        What must not be repeated must not be in doubt for little. A crowd goes in groups.
        """
        batch, submission = self._batch, mail.submission
        return (
            not batch.session.tells
            or batch.untried
            or submission.at_most_once
            or len(mail.recipients) > MOST_AT_ONCE
        )

    def _launch(self, mail: Transaction) -> Talk:
        """Write it whole, as a chunk; where care is due, with DATA, and hear it to its end."""
        batch, content = self._batch, mail.submission.content
        mail.watch = Watch.HOLD if batch.session.tells else Watch.LEARN
        if self._careful(mail):
            batch.untried = False
            given = yield from self._next_group(None, mail)
            if given is not None:
                yield from self._next_group(given, None)
            return
        mail.reset = bool(batch.flying) or batch.session.dirty
        bdat = b"BDAT %d LAST\r\n" % len(content)
        ((group, owed),) = self._groups(mail, bdat)
        yield from self._write(mail, (group, content), len(group) + len(content), owed)

    def _land(self) -> Talk:
        """Hear what became of the one that has been on its way the longest."""
        batch = self._batch
        mail = batch.flying[0]
        yield from self._hear_envelope(mail, ())
        reply: SmtpReply = yield self._dot
        if mail.taken:
            batch.heard_content(mail, reply)
        elif reply.code == CLOSING:
            raise Closing(batch.told(reply))
        batch.session.dirty = not 200 <= reply.code < 300  # noqa: PLR2004  a class of replies
        batch.flying.popleft()
        batch.settle(mail)

    # --- what all three need ---

    def _write(
        self, mail: Transaction | None, blocks: Sequence[bytes], ends_at: int, replies: int
    ) -> Talk:
        """Write; the content of ``mail`` ends there. If it breaks, what was said is still read."""
        batch = self._batch
        if mail is not None:
            if batch.current is mail:
                batch.current = None
            batch.flying.append(mail)
            mail.ends_at = ends_at if batch.wound is None else sys.maxsize
        if batch.wound is not None:
            raise batch.wound
        try:
            yield Write(blocks, self._times.content(ends_at), replies)
        except WireError as error:
            batch.wound = error
        else:
            if mail is not None:
                mail.ends_at = 0

    def _heard_rset(self, reply: SmtpReply) -> None:
        if reply.code == CLOSING:
            raise Closing(self._batch.told(reply))
        if not 200 <= reply.code < 300:  # noqa: PLR2004  the class of a reply is its first digit
            raise OutOfStep("RSET", self._batch.told(reply))
        self._batch.session.dirty = False

    def _heard_lone_dot(self, reply: SmtpReply) -> None:
        if reply.code == CLOSING:
            raise Closing(self._batch.told(reply))
