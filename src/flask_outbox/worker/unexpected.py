"""What an exception that nobody foresaw means for a mail: a bug costs that mail, no other.

A transport is a conversation, so what it had put on the line is known when it fails. Fewer bytes
than the content has: it cannot have left, and may be tried again. As many or more: it may have.
"""

import traceback
from collections.abc import Callable
from contextlib import closing, suppress
from math import inf
from threading import Event

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Answer, Conversation, HttpRequest, Question, Write
from flask_outbox.mail.outcome import Deferred, Fault, Outcome, Refused, Unclear
from flask_outbox.mail.retry import MAX_CRASHES
from flask_outbox.mail.submission import Submission

POISON = "poison"


class Watched:
    """A conversation, and what is to be known of it should it fail.

    Once ``over`` is set it puts nothing more on the line.
    """

    def __init__(self, begin: Callable[[], Conversation], over: Event) -> None:
        self._begin = begin
        self._over = over
        self.written = 0.0
        self.failed = False  # the conversation itself, rather than the driver under it
        self.speaks = False  # the transport is at work; else the driver is, or nobody

    def cannot_have_sent(self, submission: Submission) -> bool:
        """Tell whether too little was written for it to be whole at the far side."""
        return self.written < len(submission.content)

    def talk(self) -> Conversation:
        """Pass questions and answers on."""
        try:
            conversation = self._begin()
            with closing(conversation):
                yield from self._counted(conversation)
        except Exception:
            self.failed = True
            raise

    def _counted(self, conversation: Conversation) -> Conversation:
        answer: Answer = None
        broken: WireError | None = None
        with suppress(StopIteration):
            while True:
                self.speaks = True
                try:
                    question = conversation.throw(broken) if broken else conversation.send(answer)
                finally:
                    self.speaks = False
                answer = broken = None
                try:
                    self._count(question)
                    answer = yield question
                except WireError as error:
                    broken = error

    def _count(self, question: Question) -> None:
        if isinstance(question, Write):
            self.written += sum(map(len, question.blocks))
        elif isinstance(question, HttpRequest):
            self.written = inf  # what is said in other words may be shorter
        else:
            return
        # Asked after it was counted: whoever sets it looks at the count next, in another thread.
        if self._over.is_set():
            raise WireError("its worker left before it was sent")


def outcome_of_bug(submission: Submission, error: BaseException) -> Outcome:
    """Judge a mail that cannot be built: a few more tries, since the bug may be mended."""
    text = f"{POISON}: {type(error).__name__} while it was built"
    return Refused(text) if submission.attempt >= MAX_CRASHES else Deferred(text)


def outcome_of_failure(
    submission: Submission, watched: Watched, error: Exception | None, *, leaving: bool
) -> Outcome:
    """Judge a mail whose conversation ended without a word about it."""
    if not watched.cannot_have_sent(submission):
        return Unclear(f"{_kind(error)} after it was sent")
    if watched.failed and error is not None:
        return outcome_of_bug(submission, error)
    # The driver's own trouble: nobody's message pays for it. At the interpreter's end, when no
    # more threads begin and so no more names are looked up, the route is not to blame either.
    return Deferred(f"{_kind(error)} in the driver", Fault.NONE if leaving else Fault.OURS)


def place(error: BaseException) -> str:
    """Say where it was raised; never its text, which may quote the mail."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{at}"


def _kind(error: Exception | None) -> str:
    return type(error).__name__ if error is not None else "no report"
