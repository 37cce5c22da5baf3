"""An address leaves the outbox on request."""

import json
import re
from contextlib import contextmanager

import pytest
from sqlalchemy import LargeBinary, insert, select, update

from contract.outbox_ground import Ground
from flask_outbox.mail.errors import Contended, KeyConflict, MessageError
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.submission import Dsn
from flask_outbox.outbox import erase as erasing
from flask_outbox.outbox.claim import release
from flask_outbox.outbox.erase import ERASED, Erased, erase
from flask_outbox.outbox.status import history, list_messages, retry, submission
from flask_outbox.outbox.tables import event, message, metadata, recipient
from outbox_mail import ADA, BOB, CYD, a_submission, begin, look, one, put, put_many, say, take

SHOP = "shop@example.com"
OTHERS = f"x{ADA}, {ADA}.uk, ada@example.org-x.example"
NOT_ADA = (BOB, CYD, f"x{ADA}", f"{ADA}.uk", "ada@other.example.org")


def everything(outbox):
    """Give all that is in the database as one text."""
    found = []
    with outbox.read() as connection:
        for table in metadata.sorted_tables:
            if table.name != "outbox_version":
                for row in connection.execute(select(table)):
                    found += [
                        bytes(each).decode(errors="replace")
                        if isinstance(column.type, LargeBinary)
                        else str(each)
                        for column, each in zip(table.columns, row, strict=True)
                    ]
        extras = connection.execute(select(message.c.extra)).scalars()
        # JSON as it is meant, not as it is written.
        found += [re.sub(r"\\u[0-9a-f]{4}", lambda it: json.loads(f'"{it[0]}"'), x) for x in extras]
    return "\n".join(found).lower()


def to(*recipients, **more):
    header = f"From: {SHOP}\r\nTo: {', '.join(recipients)}\r\n\r\nhello\r\n"
    return a_submission(*recipients, content=header.encode(), **more)


class EraseContract(Ground):
    def test_what_was_accepted_is_there_without_the_address(self, outbox):
        id_ = put(outbox, to(ADA))
        say(outbox, one(outbox), Accepted(f"250 queued for {ADA}", "7F3"))
        assert erase(outbox, ADA) == Erased(messages=1, contents=1, events=1)
        assert ADA not in everything(outbox)
        found = look(outbox, id_)
        assert (found.state, found.recipients[0].address) == (State.ACCEPTED, ERASED)
        assert (found.recipients[0].reply, found.recipients[0].reference) == ("", "")
        assert [each.kind.value for each in history(outbox, id_)] == ["started", "accepted"]
        assert submission(outbox, id_) is None

    @pytest.mark.parametrize("outcome", [Refused(f"550 {ADA}?"), Unclear(f"who is {ADA}?")])
    def test_what_failed_or_is_unknown_too_and_cannot_be_retried(self, outbox, outcome):
        id_ = put(outbox, to(ADA, at_most_once=True))
        say(outbox, one(outbox), outcome)
        assert erase(outbox, ADA).messages == 1
        assert ADA not in everything(outbox)
        with pytest.raises(MessageError, match="no longer kept"):
            retry(outbox, id_)

    def test_what_waits_for_it_alone_is_cancelled_first(self, outbox):
        id_ = put(outbox, to(ADA), key="k")
        assert erase(outbox, ADA) == Erased(cancelled=1, messages=1, contents=1, events=1)
        found = look(outbox, id_)
        assert (found.state, found.key) == (State.CANCELLED, "k")
        assert "erased" in found.reason
        assert "erased" in history(outbox, id_)[0].text
        assert take(outbox) == []
        assert ADA not in everything(outbox)

    def test_sensitive_content_is_counted_too(self, outbox):
        put(outbox, to(ADA, sensitive=True))
        assert erase(outbox, ADA) == Erased(cancelled=1, messages=1, contents=1, events=1)

    def test_where_a_worker_goes_first_it_is_done_once_more_and_counted_once(
        self, outbox, monkeypatch
    ):
        put(outbox, to(ADA))
        say(outbox, one(outbox), Accepted("250"))
        begin_, busy = outbox.begin, [True]

        @contextmanager
        def contended():
            with begin_() as connection:
                yield connection
                if busy:
                    busy.clear()
                    raise Contended("a deadlock was found")

        monkeypatch.setattr(outbox, "begin", contended)
        assert erase(outbox, ADA) == Erased(messages=1, contents=1, events=1)
        assert ADA not in everything(outbox)

    def test_others_get_a_mail_that_waits_and_then_it_is_erased(self, outbox):
        id_ = put(outbox, to(ADA, BOB))
        assert erase(outbox, ADA) == Erased(cancelled=1, left=[id_])
        assert erase(outbox, ADA) == Erased(left=[id_])
        sent = one(outbox)
        assert sent.recipients == (BOB,)
        say(outbox, sent, Accepted("250"))
        assert erase(outbox, ADA) == Erased(messages=1, contents=1, events=1)
        assert ADA not in everything(outbox)
        assert [each.address for each in look(outbox, id_).recipients] == [ERASED, BOB]

    def test_a_message_id_that_names_it_is_rewritten(self, outbox):
        put(outbox, to(ADA, message_id=f"<welcome-{ADA}>"))
        say(outbox, one(outbox), Accepted("250"))
        assert erase(outbox, ADA).messages == 1
        assert ADA not in everything(outbox)

    def test_what_waits_for_others_keeps_its_place_in_line(self, outbox, clock):
        ids = [put(outbox, to(ADA, BOB)), put(outbox, to(ADA, BOB), at=clock.now + 60)]
        (sent,) = take(outbox)
        release(outbox, [sent])
        clock.now += 1
        places = select(message.c.slot_at, message.c.due_from).where(message.c.id.in_(ids))
        with outbox.read() as connection:
            before = connection.execute(places.order_by(message.c.id)).all()
        assert erase(outbox, ADA).cancelled == 2
        with outbox.read() as connection:
            assert connection.execute(places.order_by(message.c.id)).all() == before
        assert before[1] == (None, None)

    def test_what_it_alone_was_still_to_get_is_cancelled_though_others_have_it(self, outbox):
        id_ = put(outbox, to(ADA, BOB))
        say(outbox, one(outbox), {ADA: Deferred("451"), BOB: Accepted("250")})
        assert erase(outbox, ADA).cancelled == 1
        assert [each.state for each in look(outbox, id_).recipients] == [
            State.CANCELLED,
            State.ACCEPTED,
        ]
        assert ADA not in everything(outbox)

    def test_what_is_under_way_is_finished_first(self, outbox):
        id_ = put(outbox, to(ADA))
        sent = one(outbox)
        before = everything(outbox)
        assert erase(outbox, ADA) == Erased(left=[id_])
        assert everything(outbox) == before
        say(outbox, sent, Accepted("250"))
        assert erase(outbox, ADA) == Erased(messages=1, contents=1, events=1)

    def test_nothing_of_others_is_touched(self, outbox):
        for whom in NOT_ADA:
            put(outbox, to(whom, metadata={"user": whom}), key=whom, fingerprint=f"of {whom}")
            say(outbox, one(outbox), Accepted(f"250 {whom}"))
        for whom in NOT_ADA:
            put(outbox, to(whom))
        before = everything(outbox)
        assert erase(outbox, ADA) == Erased()
        assert everything(outbox) == before

    def test_a_sender_is_erased_too_when_the_mail_has_ended(self, outbox):
        id_ = put(outbox, to(BOB, sender=ADA))
        assert erase(outbox, ADA) == Erased(left=[id_])
        say(outbox, one(outbox), Accepted("250"))
        assert erase(outbox, ADA) == Erased(messages=1, contents=1)
        assert look(outbox, id_).sender == ERASED
        assert [each.address for each in look(outbox, id_).recipients] == [BOB]

    def test_it_is_found_wherever_else_it_was_written(self, outbox):
        id_ = put(
            outbox,
            to(
                ADA,
                BOB,
                dsn=Dsn(notify={ADA: ("NEVER",), "*": ("FAILURE",)}, envid=f"for {ADA}"),
                metadata={"user": ADA, "mailto:" + ADA: "x"},
                tags=("welcome", ADA.upper()),
            ),
            key=f"welcome {ADA}",
        )
        say(
            outbox,
            one(outbox),
            {ADA: Refused("550"), BOB: Accepted(f"250 as <{ADA}>, {ADA}; {ADA}. {OTHERS}")},
        )
        put(outbox, to(ADA), key="another")
        say(outbox, one(outbox), Deferred(f"550 too much to {ADA}", Fault.OURS))
        assert erase(outbox, ADA).messages == 2
        assert ADA not in everything(outbox).replace(OTHERS, "")
        with outbox.read() as connection:
            found = connection.execute(select(message.c.extra).where(message.c.key.is_(None)))
            extra = json.loads(found.scalar_one())
        assert extra["dsn"]["notify"] == {ERASED: ["NEVER"], "*": ["FAILURE"]}
        assert any(OTHERS in (each.reply or "") for each in look(outbox, id_).recipients)

    @pytest.mark.parametrize("sensitive", [False, True])
    @pytest.mark.parametrize("fingerprint", ["of it", "of another"])
    def test_nobody_who_guesses_it_sees_by_its_key_whom_it_was_to(
        self, outbox, fingerprint, sensitive
    ):
        id_ = put(outbox, to(ADA, sensitive=sensitive), key="order-7", fingerprint="of it")
        say(outbox, one(outbox), Accepted("250"))
        erase(outbox, ADA)
        with outbox.read() as connection:
            kept = connection.execute(select(message.c.key, message.c.fingerprint)).all()
        assert [tuple(each) for each in kept] == [("order-7", "")]
        again = to(ADA, sensitive=sensitive)
        assert put(outbox, again, key="order-7", fingerprint=fingerprint) == id_
        assert take(outbox) == []

    def test_what_is_left_is_still_compared_by_its_key(self, outbox):
        put(outbox, to(ADA, BOB), key="order-7", fingerprint="of it")
        erase(outbox, ADA)
        with pytest.raises(KeyConflict):
            put(outbox, to(ADA), key="order-7", fingerprint="of another")

    @pytest.mark.parametrize(
        "joined",
        [
            *("welcome {}", "welcome:{}", "welcome-{}", "welcome_{}", "2026.{}", "%20{}", "to{}"),
            *("{}-welcome", "{}_1", "{}.welcome", "{}1"),
        ],
    )
    def test_it_is_found_in_what_the_app_joined_it_to(self, outbox, joined):
        for written in (ADA, ADA.upper(), ADA.replace("@", "%40")):
            name = joined.format(written)
            id_ = put(outbox, to(ADA, metadata={"name": name}, tags=(name,)), key=name)
            say(outbox, one(outbox), Accepted("250"))
            erase(outbox, ADA)
            assert written.lower() not in everything(outbox)
            assert look(outbox, id_).key is None

    def test_what_a_server_said_of_them_is_no_reason_any_more(self, outbox):
        id_ = put(outbox, to(ADA))
        say(outbox, one(outbox), Refused("550 the lady has moved to Ockham"))
        assert look(outbox, id_).reason
        erase(outbox, ADA)
        assert look(outbox, id_).reason == ""
        assert "ockham" not in everything(outbox)

    @pytest.mark.parametrize(
        ("stored", "asked"),
        [
            ("Ada@example.org", "ada@EXAMPLE.org"),
            ("ada@xn--bcher-kva.example", "Ada Lovelace <ada@bücher.example>"),
            ("jörg@example.org", "JÖRG@example.org"),
        ],
    )
    def test_one_address_may_be_written_in_several_ways(self, outbox, stored, asked):
        put(outbox, to(stored, metadata={"typed": stored, "shown": asked}))
        say(outbox, one(outbox), Refused(f"550 {stored} {asked}"))
        assert erase(outbox, asked).messages == 1
        assert stored.lower() not in everything(outbox)
        assert asked.lower().rpartition("<")[2].rstrip(">") not in everything(outbox)

    def test_what_is_no_address_is_refused(self, outbox):
        with pytest.raises(MessageError, match="address"):
            erase(outbox, "nobody")

    def test_it_goes_in_pieces_and_others_write_between_two(self, outbox, monkeypatch):
        monkeypatch.setattr(erasing, "LOOKED_AT", 7)
        monkeypatch.setattr(erasing, "CHANGED", 2)
        put_many(outbox, 40)
        for each in begin(outbox, 20):
            say(outbox, each, Accepted("250"))
        with outbox.begin() as connection:
            connection.execute(
                update(recipient).where(recipient.c.state == "accepted").values(address=ADA)
            )
        done = []
        erase_ = erasing._erase

        def counted(connection, now, person, ids):
            done.append(len(ids))
            return erase_(connection, now, person, ids)

        monkeypatch.setattr(erasing, "_erase", counted)
        found = erase(outbox, ADA)
        assert (found.cancelled, found.messages, found.left) == (20, 40, [])
        assert max(done) == 2
        assert sum(done) == 40
        assert all(each.recipients[0].address == ERASED for each in list_messages(outbox))

    def test_what_was_claimed_between_looking_and_erasing_is_left(self, outbox, monkeypatch):
        id_ = put(outbox, to(ADA))
        erase_ = erasing._found

        def claimed_first(*arguments):
            for ids in erase_(*arguments):
                assert [each.id for each in take(outbox)] == [id_]
                yield ids

        monkeypatch.setattr(erasing, "_found", claimed_first)
        assert erase(outbox, ADA) == Erased(left=[id_])
        assert look(outbox, id_).state is State.SENDING

    def test_a_row_that_makes_no_sense_is_erased_as_well(self, outbox):
        id_ = put(outbox, to(ADA))
        with outbox.begin() as connection:
            values = {"extra": f"no JSON, but {ADA}"}
            connection.execute(update(message).values(**values))
            connection.execute(
                insert(event).values(
                    message=id_, recipient=None, kind="retried", at=1.0, attempt=0, text=f"by {ADA}"
                )
            )
        erase(outbox, ADA)
        assert ADA not in everything(outbox)
