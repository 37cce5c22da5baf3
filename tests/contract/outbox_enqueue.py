"""A submission becomes rows, in the caller's transaction."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from threading import Barrier
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import KeyConflict, MessageError
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.submission import Dsn
from flask_outbox.outbox import enqueue as enqueuing
from flask_outbox.outbox.claim import has_open
from flask_outbox.outbox.enqueue import Priority, Schedule, enqueue, uuid7
from flask_outbox.outbox.enqueue import put as put_alone
from flask_outbox.outbox.prune import prune
from flask_outbox.outbox.status import cancel, list_messages, status, submission
from flask_outbox.outbox.tables import message
from outbox_mail import ADA, BOB, EPOCH, a_submission, look, put, put_many, take

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


class EnqueueContract(Ground):
    def test_what_is_claimed_is_what_was_enqueued(self, outbox):
        sealed = a_submission(
            BOB,
            ADA,
            content=bytes(range(256)) * 40,
            message_id="<ü@example.com>",
            date=EPOCH + 0.123456,
            utf8=True,
            dsn=Dsn(notify={ADA: ("NEVER",), "*": ("SUCCESS", "DELAY")}, ret="HDRS", envid="x+1"),
            mail_options=("BODY=8BITMIME",),
            rcpt_options=("X=1", "Y"),
            tags=("welcome", "été"),
            metadata={"user": "7"},
            provider={"template": {"id": "été", "variables": [None, True, 1.5, "x"]}},
            track_opens=False,
            track_clicks=True,
            sensitive=True,
            at_most_once=True,
            transport="bulk",
        )
        id_ = put(outbox, sealed)
        (claimed,) = take(outbox, transports=["bulk"])
        assert claimed.fence
        ours = {"id": id_, "route": "bulk", "fence": claimed.fence, "claimed_at": EPOCH}
        assert claimed == replace(sealed, **ours)

    @settings(
        max_examples=25,
        deadline=None,
        # One outbox for all examples is meant, and so is one test for several databases.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(
        content=st.binary(max_size=200),
        metadata=st.dictionaries(WORDS, WORDS, max_size=3),
        tags=st.lists(WORDS, max_size=3).map(tuple),
        date=st.floats(0, 1e11),
    )
    def test_any_content_and_words_come_back(self, outbox, content, metadata, tags, date):
        sealed = a_submission(content=content, metadata=metadata, tags=tags, date=date)
        back = submission(outbox, put(outbox, sealed))
        assert back is not None
        assert (back.content, dict(back.metadata), back.tags, back.date) == (
            content,
            metadata,
            tags,
            date,
        )

    def test_nothing_is_there_when_the_caller_rolls_back(self, outbox):
        class RegretError(Exception):
            pass

        def change_my_mind(connection):
            enqueue(connection, outbox, a_submission())
            raise RegretError

        with pytest.raises(RegretError), outbox.begin() as connection:
            change_my_mind(connection)
        assert not has_open(outbox, ["default"])
        assert list_messages(outbox) == []

    def test_a_connection_that_has_not_begun_yet_begins(self, outbox):
        with outbox.open().connect() as connection:
            enqueue(connection, outbox, a_submission())
            connection.rollback()
            kept = enqueue(connection, outbox, a_submission())
            connection.commit()
        assert [each.id for each in list_messages(outbox)] == [kept]

    def test_a_message_and_the_callers_own_rows_are_one_transaction(self, outbox):
        with outbox.begin() as connection:
            first = enqueue(connection, outbox, a_submission())
            second = enqueue(connection, outbox, a_submission())
        assert [each.id for each in list_messages(outbox)] == [second, first]

    def test_ids_are_uuid7_of_the_databases_time(self, outbox):
        made = UUID(put(outbox))
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert made.int >> 80 == int(EPOCH * 1000)

    def test_ids_of_one_millisecond_keep_their_order(self):
        numbers = count()
        ids = [uuid7(EPOCH, next(numbers), bytes([255 - n]) * 8) for n in range(50)]
        assert ids == sorted(ids)

    def test_the_same_key_gives_the_same_id(self, outbox):
        first = put(outbox, key="order-7", fingerprint="f")
        assert put(outbox, key="order-7", fingerprint="f") == first
        assert [each.id for each in list_messages(outbox)] == [first]

    def test_the_same_key_for_other_content_is_an_error_that_breaks_no_transaction(self, outbox):
        first = put(outbox, key="order-7", fingerprint="f")
        with outbox.begin() as connection:
            with pytest.raises(KeyConflict, match="key="):
                enqueue(
                    connection, outbox, a_submission(), Schedule(key="order-7", fingerprint="g")
                )
            other = enqueue(connection, outbox, a_submission())
        assert {each.id for each in list_messages(outbox)} == {first, other}

    @pytest.mark.parametrize("sensitive", [False, True])
    @pytest.mark.parametrize("fingerprint", ["", "f"])
    def test_what_was_kept_without_a_fingerprint_is_compared_with_nothing(
        self, outbox, fingerprint, sensitive
    ):
        sealed = a_submission(sensitive=sensitive)
        first = put(outbox, sealed, key="order-7")
        assert put(outbox, sealed, key="order-7", fingerprint=fingerprint) == first
        assert [each.id for each in list_messages(outbox)] == [first]

    def test_what_has_no_fingerprint_is_not_what_has_one(self, outbox):
        put(outbox, key="order-7", fingerprint="f")
        with pytest.raises(KeyConflict):
            put(outbox, key="order-7")

    def test_equal_keys_from_sixteen_threads_make_one_row(self, make_outbox):
        outbox = make_outbox()
        together = Barrier(16)

        def request() -> tuple[str, bool]:
            together.wait(30)
            return put_alone(outbox, a_submission(), Schedule(key="once", fingerprint="f"))

        with ThreadPoolExecutor(16) as threads:
            rows = [each.result() for each in [threads.submit(request) for _ in range(16)]]
        assert len({id_ for id_, _ in rows}) == 1
        assert [is_new for _, is_new in rows].count(True) == 1
        assert len(list_messages(outbox)) == 1

    def test_keyless_messages_do_not_clash(self, outbox):
        assert len(set(put_many(outbox, 5))) == 5

    def test_a_key_is_free_again_when_its_row_is_gone(self, outbox, clock):
        first = put(outbox, key="order-7", fingerprint="f")
        cancel(outbox, first)
        clock.now += 10
        prune(outbox, content_after=5, rows_after=5)
        second = put(outbox, key="order-7", fingerprint="g")
        assert second != first
        assert status(outbox, first) is None

    def test_whoever_has_the_key_may_be_forgotten_while_it_is_looked_for(self, outbox, monkeypatch):
        first = put(outbox, key="order-7", fingerprint="f")
        found, gone = enqueuing._found, []

        def forgotten(connection, *terms):
            if not gone:
                connection.execute(delete(message).where(message.c.id == first))
                gone.append(True)
            return found(connection, *terms)

        monkeypatch.setattr(enqueuing, "_found", forgotten)
        second = put(outbox, key="order-7", fingerprint="g")
        assert second != first
        assert status(outbox, second).state is State.QUEUED

    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"at": float("nan")}, "at="),
            ({"expires": float("inf")}, "expires="),
            ({"at": 2.0, "expires": 1.0}, "expires="),
            ({"at": 2.0, "lasts": 0.0}, "expires="),
            ({"delay": 2.0, "lasts": -1.0}, "expires="),
            ({"delay": float("nan")}, "delay="),
            ({"lasts": float("inf")}, "expires="),
            ({"key": ""}, "key="),
            ({"key": "x" * 256}, "key="),
            ({"key": "a\nb"}, "key="),
        ],
    )
    def test_a_schedule_that_cannot_be_meant_names_its_field(self, wrong, field):
        with pytest.raises(MessageError, match=field):
            Schedule(**wrong)

    def test_a_message_to_nobody_is_refused(self, outbox):
        with pytest.raises(MessageError, match="recipient"), outbox.begin() as connection:
            enqueue(connection, outbox, a_submission().only([]))

    def test_a_recipient_named_twice_is_kept_once(self, outbox):
        id_ = put(outbox, a_submission(ADA, BOB, ADA))
        assert [each.address for each in look(outbox, id_).recipients] == [ADA, BOB]

    def test_priorities_are_stored_as_their_words(self, outbox):
        assert look(outbox, put(outbox, priority=Priority.BULK)).priority is Priority.BULK
