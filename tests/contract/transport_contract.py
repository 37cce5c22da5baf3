"""What every way out must do; subclass it and give it a ``transport`` with a friendly far side.

::

    class TestMine(TransportContract):
        @pytest.fixture
        def transport(self):
            return Mine("s3cret")

        def carry(self, conversation):  # what answers its questions; local ones ask none
            return my_driver(conversation)
"""

from collections.abc import Sequence
from typing import Any

import pytest

from flask_outbox.mail.exchange import Conversation, Report
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Unclear
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import Carries

CONTENT = (
    b"From: shop@example.com\r\nTo: ada@example.org\r\nSubject: hi\r\n"
    b"Message-ID: <1@example.com>\r\n\r\n.hello\r\n"
)


def submission(number: int = 1, *recipients: str) -> Submission:
    """One that everybody can take."""
    return Submission(
        sender="shop@example.com",
        recipients=recipients or (f"r{number}@example.org",),
        content=CONTENT,
        message_id=f"<{number}@example.com>",
        date=1_700_000_000.0,
    )


class TransportContract:
    """The suite."""

    secrets: Sequence[str] = ()

    @pytest.fixture
    def transport(self) -> Any:
        """The way out under test, with a far side that takes everything."""
        raise NotImplementedError

    @pytest.fixture
    def broken(self) -> Any:
        """The same, with nobody at the far side; None where there is none that could be away."""
        return None

    def carry(self, conversation: Conversation) -> list[Report]:
        """Answer its questions."""
        return list(conversation)  # type: ignore[arg-type]  a local one yields nothing but reports

    def test_it_says_its_name_and_what_it_carries(self, transport):
        assert transport.name.isidentifier()
        assert isinstance(transport.carries, Carries)
        assert transport.carries.window >= 1

    def test_each_submission_is_reported_once_with_an_outcome_for_each_recipient(self, transport):
        sent = [submission(1), submission(2, "a@example.org", "b@example.org"), submission(3)]
        reports = self.carry(transport.send(sent))
        assert [report.submission for report in reports] == sent
        for report in reports:
            assert tuple(report.receipt) == report.submission.recipients
            assert all(isinstance(outcome, Accepted) for outcome in report.receipt.values())

    def test_two_submissions_of_one_message_are_two(self, transport):
        twice = [submission(1), submission(1)]
        assert len(self.carry(transport.send(twice))) == 2

    def test_an_empty_batch_asks_for_nothing(self, transport):
        assert list(transport.send([])) == []

    def test_it_can_be_used_again(self, transport):
        assert self.carry(transport.send([submission(1)]))
        assert self.carry(transport.send([submission(2)]))

    def test_what_is_half_done_can_be_walked_away_from(self, transport):
        conversation = transport.send([submission(1), submission(2)])
        next(conversation)
        conversation.close()

    def test_nobody_at_the_far_side_is_our_own_fault_and_never_unclear(self, broken):
        if broken is None:
            return
        reports = self.carry(broken.send([submission(1), submission(2)]))
        assert len(reports) == 2
        for report in reports:
            for outcome in report.receipt.values():
                assert not isinstance(outcome, Unclear)
                assert isinstance(outcome, Deferred)
                assert outcome.fault is Fault.OURS

    def test_no_repr_and_no_outcome_shows_a_secret(self, transport, broken):
        shown = [repr(transport), str(transport), repr(broken)]
        shown += map(repr, self.carry(transport.send([submission(1)])))
        assert not [secret for secret in self.secrets if any(secret in text for text in shown)]
