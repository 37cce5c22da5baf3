"""What is sensitive is encrypted while it rests; what is of no more use is forgotten."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import ConfigurationError, KeyConflict, MessageError
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.outbox.claim import claim, reclaim, start
from flask_outbox.outbox.claimed import Claimed, opened
from flask_outbox.outbox.encryption import NO_KEYS, Keyring
from flask_outbox.outbox.enqueue import enqueue
from flask_outbox.outbox.prune import OCTETS_MOST, Keep, Pruned, pieces, prune
from flask_outbox.outbox.schedule import Priority, Schedule
from flask_outbox.outbox.status import cancel, history, list_messages, retry, submission
from flask_outbox.outbox.tables import FORMAT, content, event, message, recipient
from outbox_mail import (
    ADA,
    BOB,
    EPOCH,
    KEY,
    KEYRING,
    OLD_KEY,
    a_submission,
    begin,
    look,
    one,
    put,
    put_many,
    say,
    take,
)

DAY = 86400.0
CANARY = b"c4n4ry-t0ken"
TABLES = (content, message, recipient, event)
OTHERS = Keyring([OLD_KEY])
URGENT = Schedule(priority=Priority.URGENT)


def a_secret(*recipients, **more):
    return a_submission(*recipients, content=CANARY * 100, sensitive=True, **more)


def stored(outbox, id_):
    """Give what is in the columns: the content, and how it is encrypted."""
    with outbox.read() as connection:
        query = select(content.c.content, content.c.cipher).where(content.c.message == id_)
        return connection.execute(query).one_or_none()


def errors(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]


class EncryptionContract(Ground):
    def test_sensitive_content_rests_encrypted_and_leaves_as_it_came(self, outbox):
        id_ = put(outbox, a_secret())
        row = stored(outbox, id_)
        assert row.cipher == "fernet"
        assert CANARY not in bytes(row.content)
        assert look(outbox, id_).size == len(CANARY * 100)
        assert one(outbox).content == CANARY * 100
        assert submission(outbox, id_).content == CANARY * 100

    def test_other_content_rests_as_it_is(self, outbox):
        outbox.keyring = NO_KEYS
        row = stored(outbox, put(outbox))
        assert (bytes(row.content), row.cipher) == (a_submission().content, None)

    def test_what_was_written_before_there_was_encryption_still_leaves(self, outbox):
        id_ = put(outbox, a_secret())
        with outbox.begin() as connection:
            connection.execute(update(content).values(content=CANARY, cipher=None))
        assert one(outbox).content == CANARY
        assert submission(outbox, id_).content == CANARY

    def test_without_a_key_nothing_is_written_down(self, outbox):
        outbox.keyring = NO_KEYS
        with outbox.begin() as connection, pytest.raises(ConfigurationError, match="SECRET_KEY"):
            enqueue(connection, outbox, a_secret())
        assert list_messages(outbox) == []

    def test_after_a_rotation_the_old_key_still_decrypts(self, outbox):
        put(outbox, a_secret())
        outbox.keyring = Keyring([OLD_KEY, KEY])
        assert one(outbox).content == CANARY * 100
        newer = put(outbox, a_secret())
        outbox.keyring = OTHERS
        assert submission(outbox, newer).content == CANARY * 100

    def test_while_its_key_is_gone_a_mail_waits_uncharged_and_leaves_once_it_is_back(
        self, outbox, clock, caplog
    ):
        id_ = put(outbox, a_secret())
        outbox.keyring = OTHERS
        assert take(outbox) == []
        found = look(outbox, id_)
        assert (found.state, found.attempts, found.due_at) == (State.QUEUED, 0, EPOCH + 60)
        assert found.recipients[0].attempts == 0
        assert "MAIL_OUTBOX_KEYS" in found.reason
        (said,) = errors(caplog)
        assert "MAIL_OUTBOX_KEYS" in said
        assert id_ in said
        with pytest.raises(ConfigurationError, match="MAIL_OUTBOX_KEYS"):
            submission(outbox, id_)
        outbox.keyring = KEYRING
        clock.now += 59
        assert take(outbox) == []
        clock.now += 1
        submission_ = one(outbox)
        assert (submission_.content, submission_.attempt) == (CANARY * 100, 1)

    def test_it_is_looked_at_less_and_less_often_and_told_of_once(self, outbox, clock, caplog):
        id_ = put(outbox, a_secret())
        outbox.keyring = OTHERS
        waits = []
        while clock.now < EPOCH + DAY:
            assert take(outbox) == []
            due = look(outbox, id_).due_at
            waits.append(due - clock.now)
            clock.now = due
        assert waits[:6] == [60, 60, 120, 240, 480, 600]
        assert set(waits[6:]) == {600}
        assert len(errors(caplog)) == 1
        assert len(history(outbox, id_)) == 1

    def test_mails_that_cannot_be_decrypted_stand_in_nobodys_way(self, outbox):
        with outbox.begin() as connection:
            for _ in range(150):
                enqueue(connection, outbox, a_secret())
        others = put_many(outbox, 3)
        outbox.keyring = OTHERS
        got = claim(outbox, transports=["default"], limit=10, worker="w1")
        assert [each.id for each in got] == others

    @pytest.mark.parametrize("many", [40, 700])
    def test_nor_while_their_route_is_tried_with_one_mail(self, outbox, clock, many):
        put(outbox)
        say(outbox, one(outbox), Deferred("535", Fault.OURS))
        with outbox.begin() as connection:
            locked = [enqueue(connection, outbox, a_secret(), URGENT) for _ in range(many)]
        clock.now += 1
        outbox.keyring = OTHERS
        held_back = []
        (got,) = claim(outbox, transports=["default"], limit=10, worker="w1", held_back=held_back)
        assert got.content == a_submission().content
        assert sorted(held_back) == sorted(locked)
        for id_ in (locked[0], locked[-1]):
            found = look(outbox, id_)
            assert (found.state, found.attempts, found.due_at) == (State.QUEUED, 0, clock.now + 60)
            assert "MAIL_OUTBOX_KEYS" in found.reason
            assert len(history(outbox, id_)) == 1
        outbox.keyring = KEYRING
        clock.now += 60
        assert one(outbox).id in locked

    def test_a_log_tells_of_many_in_a_few_lines(self, outbox, caplog):
        with outbox.begin() as connection:
            for _ in range(700):
                enqueue(connection, outbox, a_secret())
        outbox.keyring = OTHERS
        assert claim(outbox, transports=["default"], limit=10, worker="w1") == []
        assert len(errors(caplog)) < 10

    def test_what_a_clock_held_back_that_stood_ahead_waits_no_longer(self, outbox, clock):
        put_many(outbox, 1)
        with outbox.begin() as connection:
            locked = [enqueue(connection, outbox, a_secret()) for _ in range(3)]
        outbox.keyring = OTHERS
        clock.now += 9000
        claim(outbox, transports=["default"], limit=1, worker="w1")
        assert claim(outbox, transports=["default"], limit=1, worker="w1") == []
        clock.now -= 8000
        reclaim(outbox)
        assert all(look(outbox, id_).due_at <= clock.now + 600 for id_ in locked)

    def test_what_was_cancelled_between_looking_and_holding_back_stays_so(self, outbox):
        first, second = put(outbox, a_secret()), put(outbox, a_secret())

        class Slow(Keyring):
            looks = 0

            def decrypt(self, *given):
                self.looks += 1
                if self.looks == 2:
                    assert cancel(outbox, second)
                return super().decrypt(*given)

        outbox.keyring = Slow([OLD_KEY])
        held_back = []
        assert (
            claim(outbox, transports=["default"], limit=1, worker="w1", held_back=held_back) == []
        )
        assert held_back == [first]
        assert look(outbox, second).state is State.CANCELLED

    def test_one_of_a_newer_version_is_left_alone(self, outbox):
        ours, newer = put(outbox, a_secret()), put(outbox, a_secret())
        with outbox.begin() as connection:
            by_newer = update(message).where(message.c.id == newer)
            connection.execute(by_newer.values(format=FORMAT + 1))
        outbox.keyring = OTHERS
        held_back = []
        claim(outbox, transports=["default"], limit=1, worker="w1", held_back=held_back)
        assert held_back == [ours]
        assert (look(outbox, newer).due_at, look(outbox, newer).reason) == (EPOCH, "")

    def test_its_neighbours_in_a_claim_leave(self, outbox):
        put(outbox, a_secret())
        other = put(outbox)
        outbox.keyring = OTHERS
        assert [each.id for each in begin(outbox)] == [other]

    def test_what_another_worker_took_over_in_the_meantime_is_its_own(self, outbox, clock):
        id_ = put(outbox, a_secret())
        (ours,) = take(outbox)
        clock.now += 31
        reclaim(outbox)
        (theirs,) = take(outbox)
        locked = Claimed(replace(ours, content=bytes(stored(outbox, id_).content)), "fernet")
        outbox.keyring = OTHERS
        assert opened(outbox, [locked]) == []
        assert look(outbox, id_).state is State.SENDING
        (recorded,) = say(outbox, *start(outbox, [theirs]), Accepted("250"))
        assert recorded.state is State.ACCEPTED

    def test_one_of_an_unknown_cipher_waits_too(self, outbox):
        id_ = put(outbox, a_secret())
        with outbox.begin() as connection:
            connection.execute(update(content).values(cipher="rot13"))
        assert take(outbox) == []
        assert look(outbox, id_).state is State.QUEUED

    def test_one_that_is_too_old_expires_though_its_key_is_gone(self, outbox, clock):
        id_ = put(outbox, a_secret(), expires=EPOCH + 90)
        outbox.keyring = OTHERS
        assert take(outbox) == []
        clock.now += 100
        assert take(outbox) == []
        assert look(outbox, id_).state is State.EXPIRED
        assert stored(outbox, id_) is None

    def test_what_became_of_one_whose_worker_died_is_told_with_its_content(self, outbox, clock):
        put(outbox, a_secret())
        one(outbox)
        clock.now += 31
        (recorded,) = reclaim(outbox)
        assert recorded.submission.content == CANARY * 100

    def test_what_became_of_it_is_told_without_its_key_too(self, outbox, clock):
        id_ = put(outbox, a_secret(at_most_once=True))
        one(outbox)
        outbox.keyring = OTHERS
        clock.now += 31
        (recorded,) = reclaim(outbox)
        assert (recorded.state, recorded.submission.content) == (State.UNKNOWN, b"")
        outbox.keyring = KEYRING
        assert retry(outbox, id_)
        assert one(outbox).content == CANARY * 100

    def test_the_same_key_and_content_is_the_same_mail_after_a_rotation_too(self, outbox):
        terms = {"key": "k", "fingerprint": "f1"}
        id_ = put(outbox, a_secret(), **terms)
        assert put(outbox, a_secret(), **terms) == id_
        outbox.keyring = Keyring([OLD_KEY, KEY])
        assert put(outbox, a_secret(), **terms) == id_
        with pytest.raises(KeyConflict):
            put(outbox, a_secret(), key="k", fingerprint="f2")

    def test_a_conflict_for_want_of_a_key_is_said_to_be_perhaps_that(self, outbox):
        terms = {"key": "k", "fingerprint": "f1"}
        put(outbox, a_secret(), **terms)
        outbox.keyring = OTHERS
        with pytest.raises(KeyConflict, match=r"other content, or .* a key that is not here"):
            put(outbox, a_secret(), **terms)

    def test_what_was_composed_cannot_be_found_by_trying_hashes(self, outbox):
        put(outbox, a_secret(), key="k", fingerprint="f1f1f1")
        with outbox.read() as connection:
            assert "f1f1f1" not in connection.execute(select(message.c.fingerprint)).scalar_one()


class WipeContract(Ground):
    def test_sensitive_content_is_wiped_when_it_is_accepted(self, outbox):
        id_ = put(outbox, a_secret())
        say(outbox, one(outbox), Accepted("250"))
        assert stored(outbox, id_) is None

    def test_it_is_wiped_when_it_is_cancelled(self, outbox):
        id_ = put(outbox, a_secret())
        assert cancel(outbox, id_)
        assert stored(outbox, id_) is None
        with pytest.raises(MessageError, match="no longer kept"):
            retry(outbox, id_)

    def test_it_is_wiped_when_it_expires(self, outbox, clock):
        id_ = put(outbox, a_secret(), expires=EPOCH + 1)
        clock.now += 2
        assert take(outbox) == []
        assert look(outbox, id_).state is State.EXPIRED
        assert stored(outbox, id_) is None

    def test_it_is_kept_where_it_may_have_left_before_it_got_too_old(self, outbox, clock):
        id_ = put(outbox, a_secret(), expires=EPOCH + 60)
        say(outbox, one(outbox), Unclear("no answer"))
        clock.now += 60
        assert take(outbox) == []
        assert look(outbox, id_).state is State.UNKNOWN
        assert retry(outbox, id_)
        assert one(outbox).content == CANARY * 100

    @pytest.mark.parametrize("outcome", [Refused("550"), Unclear("no answer")])
    def test_it_is_kept_while_a_person_may_retry_it(self, outbox, outcome):
        id_ = put(outbox, a_secret(at_most_once=True))
        say(outbox, one(outbox), outcome)
        assert retry(outbox, id_)
        assert one(outbox).content == CANARY * 100

    def test_it_is_kept_while_somebody_is_still_to_get_it(self, outbox, clock):
        id_ = put(outbox, a_secret(ADA, BOB))
        say(outbox, one(outbox), {ADA: Accepted("250"), BOB: Deferred("451")})
        assert stored(outbox, id_) is not None

    def test_what_is_not_sensitive_stays_until_it_is_pruned(self, outbox):
        id_ = put(outbox, a_submission(metadata={"sensitive": "true", "x": '"sensitive":true'}))
        say(outbox, one(outbox), Accepted("250"))
        assert stored(outbox, id_) is not None


def finished(outbox, outcome=None, many=1):
    ids = put_many(outbox, many)
    for each in begin(outbox, many):
        say(outbox, each, outcome or Accepted("250"))
    return ids


def counted(outbox):
    """Count contents, messages, recipients, events."""
    with outbox.read() as connection:
        counts = (select(func.count()).select_from(each) for each in TABLES)
        return tuple(connection.execute(each).scalar_one() for each in counts)


class RetentionContract(Ground):
    def test_content_goes_first_and_the_row_with_its_history_later(self, outbox, clock):
        finished(outbox)
        keep = Keep(content=DAY, rows=2 * DAY)
        clock.now += DAY + 1
        assert list(pieces(outbox, keep)) == [Pruned(contents=1)]
        assert counted(outbox) == (0, 1, 1, 1)
        clock.now += DAY
        assert list(pieces(outbox, keep)) == [Pruned(messages=1)]
        assert counted(outbox) == (0, 0, 0, 0)

    def test_what_was_cancelled_or_expired_loses_its_content_too(self, outbox, clock):
        cancel(outbox, put(outbox))
        put(outbox, expires=EPOCH + 1)
        clock.now += 2
        assert take(outbox) == []
        clock.now += DAY
        assert list(pieces(outbox, Keep(content=DAY))) == [Pruned(contents=2)]

    @pytest.mark.parametrize("outcome", [Refused("550"), Unclear("no answer")])
    def test_what_a_person_may_retry_keeps_its_content_as_long_as_its_row(
        self, outbox, clock, outcome
    ):
        id_ = put(outbox, a_submission(at_most_once=True))
        say(outbox, one(outbox), outcome)
        clock.now += 5 * DAY
        assert list(pieces(outbox, Keep(content=DAY, rows=9 * DAY))) == []
        assert submission(outbox, id_) is not None
        clock.now += 5 * DAY
        assert list(pieces(outbox, Keep(content=DAY, rows=9 * DAY))) == [Pruned(messages=1)]

    def test_what_is_open_is_never_touched(self, outbox, clock):
        put_many(outbox, 2)
        take(outbox, 1)
        clock.now += 999 * DAY
        assert list(pieces(outbox, Keep(content=1, rows=1))) == []
        assert counted(outbox)[:2] == (2, 2)

    def test_without_a_limit_all_is_kept(self, outbox, clock):
        finished(outbox)
        clock.now += 999 * DAY
        assert Keep().everything
        assert list(pieces(outbox, Keep())) == []

    @pytest.mark.parametrize("keep", [Keep(content=DAY), Keep(rows=DAY)])
    def test_what_a_clock_wrote_that_stood_ahead_is_kept_no_longer(self, outbox, clock, keep):
        clock.now += 400 * DAY
        put_many(outbox, 3)
        clock.now -= 400 * DAY
        reclaim(outbox)
        for each in begin(outbox):
            say(outbox, each, Accepted("250"))
        finished(outbox, many=2)
        clock.now += DAY - 60
        assert list(pieces(outbox, keep)) == []
        clock.now += 120
        assert sum(each.contents + each.messages for each in pieces(outbox, keep)) == 5
        assert list(pieces(outbox, keep)) == []

    def test_a_piece_is_bounded_and_others_write_between_two(self, outbox, clock, caplog):
        caplog.set_level(logging.INFO)
        for _ in range(3):
            finished(outbox, many=75)
        clock.now += 2 * DAY
        gone = []
        for piece in pieces(outbox, Keep(content=DAY, rows=DAY)):
            gone.append((piece.contents, piece.messages))
            finished(outbox)
        assert gone == [(100, 0), (100, 0), (25, 0), (0, 100), (0, 100), (0, 25)]
        assert counted(outbox)[:2] == (6, 6)
        assert "content of 225 messages, and 225 messages" in caplog.text

    def test_large_contents_make_small_pieces(self, outbox, clock):
        finished(outbox, many=4)
        with outbox.begin() as connection:
            connection.execute(update(message).values(size=OCTETS_MOST // 2))
        clock.now += 2 * DAY
        gone = list(pieces(outbox, Keep(content=DAY, rows=DAY)))
        assert gone == [Pruned(contents=2), Pruned(contents=2), Pruned(messages=4)]

    def test_what_is_retried_between_looking_and_forgetting_is_kept(
        self, outbox, clock, monkeypatch
    ):
        id_ = put(outbox)
        say(outbox, one(outbox), Refused("550"))
        clock.now += 2 * DAY
        begin_, hands = outbox.begin, []

        def retried_first():
            if not hands:
                hands.append(True)
                assert retry(outbox, id_)
            return begin_()

        monkeypatch.setattr(outbox, "begin", retried_first)
        assert list(pieces(outbox, Keep(rows=DAY))) == [Pruned()]
        assert look(outbox, id_).state is State.QUEUED

    def test_workers_that_forget_at_once_do_not_disturb_each_other(self, outbox, clock):
        finished(outbox, many=250)
        clock.now += 2 * DAY
        with ThreadPoolExecutor(4) as threads:
            runs = [
                threads.submit(prune, outbox, content_after=DAY, rows_after=DAY) for _ in range(4)
            ]
        together = sum((each.result() for each in runs), Pruned())
        assert together.messages == 250
        assert counted(outbox) == (0, 0, 0, 0)
