"""One command, one reply: what each reply means."""

import pytest

from dialogue import GONE, HOST, Cut, Fresh, Rested, Unreachable, dialogue, mail, relay
from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear

ADA, BOB, CYD = "ada@example.org", "bob@example.org", "cyd@example.org"
MAIL = (b"MAIL FROM:<shop@example.com>", "250 ok")
TO_ADA = (b"RCPT TO:<ada@example.org>", "250 ok")
TO_BOB = (b"RCPT TO:<bob@example.org>", "250 ok")
TO_CYD = (b"RCPT TO:<cyd@example.org>", "250 ok")
DATA = (b"DATA", "354 go on")
TEXT = (b"Subject: hi\r\n\r\nhello\r\n.", "250 2.0.0 Ok: queued as 7F3")
QUEUED = Accepted("250 2.0.0 Ok: queued as 7F3", "7F3")


def answers(step, reply):
    return (step[0], reply)


def test_a_message_is_accepted_with_the_server_s_reference_and_the_line_is_kept():
    told = dialogue([MAIL, TO_ADA, DATA, TEXT])
    assert told.receipt == {ADA: QUEUED}
    assert told.receipt.reference == "7F3"
    assert told.ends == ["kept"]


def test_one_refused_recipient_does_not_stop_the_other():
    told = dialogue(
        [MAIL, TO_ADA, answers(TO_BOB, "550 5.1.1 no such user"), DATA, TEXT], mail(ADA, BOB)
    )
    assert told.receipt == {ADA: QUEUED, BOB: Refused("550 5.1.1 no such user")}


def test_each_recipient_has_its_own_outcome():
    told = dialogue(
        [
            MAIL,
            TO_ADA,
            answers(TO_BOB, "550 5.1.1 no such user"),
            answers(TO_CYD, "451 4.7.1 greylisted"),
            DATA,
            TEXT,
        ],
        mail(ADA, BOB, CYD),
    )
    assert told.receipt == {
        ADA: QUEUED,
        BOB: Refused("550 5.1.1 no such user"),
        CYD: Deferred("451 4.7.1 greylisted"),
    }


def test_nothing_is_sent_when_all_recipients_are_refused_and_rset_leads_the_next():
    told = dialogue(
        [
            MAIL,
            answers(TO_ADA, "550 5.1.1 no such user"),
            (b"RSET", "250 ok"),
            MAIL,
            TO_BOB,
            DATA,
            TEXT,
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: Refused("550 5.1.1 no such user")}, {BOB: QUEUED}]


def test_a_line_is_kept_with_the_rset_that_it_owes():
    told = dialogue([MAIL, answers(TO_ADA, "550 no")])
    assert told.ends == ["kept"]
    assert told.session.dirty
    told = dialogue([Rested(dirty=True), (b"RSET", "250 ok"), MAIL, TO_ADA, DATA, TEXT])
    assert told.receipt == {ADA: QUEUED}


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("550 5.7.1 sender not owned", Deferred("550 5.7.1 sender not owned", Fault.OURS)),
        ("530 5.7.0 log in first", Deferred("530 5.7.0 log in first", Fault.OURS)),
        ("554 policy", Deferred("554 policy", Fault.OURS)),
        ("553 5.7.1 not yours", Deferred("553 5.7.1 not yours", Fault.OURS)),
        ("552 5.7.1 policy, not size", Deferred("552 5.7.1 policy, not size", Fault.OURS)),
        ("552 5.3.4 too big", Refused("552 5.3.4 too big")),
        ("554 5.3.4 too big", Refused("554 5.3.4 too big")),
        ("555 options", Refused("555 options")),
        ("501 5.1.7 bad sender", Refused("501 5.1.7 bad sender")),
        ("451 4.3.0 later", Deferred("451 4.3.0 later")),
    ],
)
def test_a_sender_that_is_not_wanted_is_our_fault_and_no_recipient_s(reply, outcome):
    told = dialogue([answers(MAIL, reply)], mail(ADA, BOB))
    assert told.receipt == {ADA: outcome, BOB: outcome}
    assert told.ends == ["kept"]


NO_RELAY = (
    "554 5.7.1 <ada@example.org>: Relay access denied",  # Postfix
    "550 5.7.1 <ada@example.org>... Relaying denied",  # Sendmail
    "550 relay not permitted",  # Exim
    "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",  # Exchange
    "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",  # qmail
    "550 5.7.1 Invalid credentials for relay [192.0.2.1]",  # Gmail
    "554 5.7.1 <host[192.0.2.1]>: Client host rejected: Access denied",
)


@pytest.mark.parametrize("reply", NO_RELAY)
def test_a_server_that_passes_on_nothing_of_ours_is_our_fault_and_no_recipient_s(reply):
    told = dialogue([MAIL, answers(TO_ADA, reply)])
    assert told.receipt == {ADA: Deferred(reply, Fault.OURS)}


@pytest.mark.parametrize(
    "reply",
    [
        "550 5.7.1 the recipient takes no mail from you",
        "550 5.1.1 undeliverable address: mx.example.org said: 554 5.7.1 Relay access denied",
        "550 5.2.1 mailbox of the relay club is closed",
    ],
)
def test_what_is_about_a_recipient_is_none_of_ours(reply):
    assert dialogue([MAIL, answers(TO_ADA, reply)]).receipt == {ADA: Refused(reply)}


@pytest.mark.parametrize("reply", ["530 5.7.0 log in", "535 who?", "538 encrypt"])
def test_a_demand_to_log_in_is_our_fault_at_whichever_verb(reply):
    assert dialogue([MAIL, answers(TO_ADA, reply)]).receipt == {ADA: Deferred(reply, Fault.OURS)}
    told = dialogue([MAIL, TO_ADA, answers(DATA, reply)])
    assert told.receipt == {ADA: Deferred(reply, Fault.OURS)}


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("554 5.7.1 spam", Refused("554 5.7.1 spam")),
        ("550 no", Refused("550 no")),
        ("552 5.3.4 too big", Refused("552 5.3.4 too big")),
        ("451 4.3.2 later", Deferred("451 4.3.2 later")),
        ("452 4.3.1 full", Deferred("452 4.3.1 full")),
    ],
)
@pytest.mark.parametrize("at", ["DATA", "dot"])
def test_what_is_said_to_the_content_is_for_all_recipients_that_were_taken(at, reply, outcome):
    rest = [answers(DATA, reply)] if at == "DATA" else [DATA, answers(TEXT, reply)]
    told = dialogue([MAIL, TO_ADA, answers(TO_BOB, "550 5.1.1 no"), *rest], mail(ADA, BOB))
    assert told.receipt == {ADA: outcome, BOB: Refused("550 5.1.1 no")}


@pytest.mark.parametrize("reply", ["452 4.5.3 too many", "452 too many", "552 too many"])
def test_recipients_too_many_for_one_transaction_go_in_a_further_one_on_the_same_line(reply):
    told = dialogue(
        [
            MAIL,
            TO_ADA,
            answers(TO_BOB, reply),
            answers(TO_CYD, reply),
            DATA,
            TEXT,
            MAIL,
            TO_BOB,
            answers(TO_CYD, "550 no"),
            DATA,
            TEXT,
        ],
        mail(ADA, BOB, CYD),
    )
    assert told.receipt == {ADA: QUEUED, BOB: QUEUED, CYD: Refused("550 no")}


def test_too_many_already_at_the_first_recipient_is_a_deferral_and_no_endless_loop():
    told = dialogue([MAIL, answers(TO_ADA, "452 4.5.3 too many")])
    assert told.receipt == {ADA: Deferred("452 4.5.3 too many")}


def test_a_full_mailbox_is_no_call_for_a_further_transaction():
    told = dialogue([MAIL, TO_ADA, answers(TO_BOB, "452 4.2.2 full"), DATA, TEXT], mail(ADA, BOB))
    assert told.receipt == {ADA: QUEUED, BOB: Deferred("452 4.2.2 full")}


CLOSING = "421 4.3.2 going down"
UNTOUCHED = Deferred(CLOSING, Fault.NONE)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([answers(MAIL, CLOSING)], Deferred(CLOSING, Fault.OURS)),
        ([MAIL, answers(TO_ADA, CLOSING)], Deferred(CLOSING)),
        ([MAIL, TO_ADA, answers(DATA, CLOSING)], Deferred(CLOSING)),
        ([MAIL, TO_ADA, DATA, answers(TEXT, CLOSING)], Deferred(CLOSING)),
    ],
)
def test_421_defers_the_message_closes_the_line_and_costs_the_others_nothing(script, outcome):
    told = dialogue(script, mail(ADA), mail(BOB), mail(CYD))
    assert told.receipts == [{ADA: outcome}, {BOB: UNTOUCHED}, {CYD: UNTOUCHED}]
    assert told.ends == ["closed"]


@pytest.mark.parametrize(
    "script",
    [
        [answers(MAIL, GONE)],
        [MAIL, answers(TO_ADA, GONE)],
        [MAIL, TO_ADA, answers(DATA, GONE)],
        [MAIL, TO_ADA, DATA, Cut(0, TEXT)],
        [MAIL, TO_ADA, DATA, Cut(len(TEXT[0]) + 1, TEXT)],
    ],
)
def test_a_break_before_the_last_byte_defers_and_costs_only_the_one_under_way(script):
    told = dialogue(script, mail(ADA), mail(BOB))
    first, second = told.outcomes
    assert isinstance(first, Deferred)
    assert first.fault is Fault.TRANSIENT
    assert isinstance(second, Deferred)
    assert second.fault is Fault.NONE
    assert told.ends == ["closed"]


@pytest.mark.parametrize(
    "end", [answers(TEXT, GONE), Cut(len(TEXT[0]) + 2, TEXT), answers(TEXT, "354 what?")]
)
def test_a_break_after_the_last_byte_is_unclear_for_those_who_were_taken(end):
    told = dialogue([MAIL, TO_ADA, answers(TO_BOB, "550 no"), DATA, end], mail(ADA, BOB), mail(CYD))
    first, second = told.receipts
    assert isinstance(first[ADA], Unclear)
    assert first[BOB] == Refused("550 no")
    assert isinstance(second[CYD], Deferred)
    assert second[CYD].fault is Fault.NONE


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("552 5.3.4 too big", Refused("552 5.3.4 too big")),
        ("451 4.3.0 no", Deferred("451 4.3.0 no")),
        ("421 4.3.0 bye", Deferred("421 4.3.0 bye")),
    ],
)
def test_a_reply_before_the_break_decides_over_the_break(said, outcome):
    for heard in ((), (said,)):
        told = dialogue([MAIL, TO_ADA, DATA, Cut(7, TEXT, said, heard)])
        assert told.receipt == {ADA: outcome}
        assert told.ends == ["closed"]


def test_an_acceptance_of_half_the_content_is_not_believed():
    for heard in ((), ("250 ok",)):
        told = dialogue([MAIL, TO_ADA, DATA, Cut(7, TEXT, "250 ok", heard)])
        (outcome,) = told.outcomes
        assert isinstance(outcome, Deferred)


def test_a_reply_that_cannot_stand_there_ends_the_line():
    for script in (
        [answers(MAIL, "354 go on")],
        [MAIL, answers(TO_ADA, "354 go on")],
        [MAIL, TO_ADA, answers(DATA, "250 ok")],
    ):
        told = dialogue(script, mail(ADA), mail(BOB))
        assert [type(outcome) for outcome in told.outcomes] == [Deferred, Deferred]
        assert [outcome.fault for outcome in told.outcomes] == [Fault.TRANSIENT, Fault.NONE]
        assert told.ends == ["closed"]


@pytest.mark.parametrize("gone", [GONE, CLOSING])
def test_a_rested_line_that_is_gone_at_its_first_mail_costs_nothing_but_a_new_line(gone):
    told = dialogue([Rested(), answers(MAIL, gone), Fresh(), MAIL, TO_ADA, DATA, TEXT])
    assert told.receipt == {ADA: QUEUED}
    assert told.ends == ["closed", "kept"]


def test_a_rested_line_that_breaks_in_the_write_costs_nothing_but_a_new_line():
    told = dialogue([Rested(), Cut(0, MAIL), Fresh(), MAIL, TO_ADA, DATA, TEXT])
    assert told.receipt == {ADA: QUEUED}


def test_a_line_that_closes_between_two_messages_is_followed_by_another():
    told = dialogue(
        [
            *(MAIL, TO_ADA, DATA, TEXT),
            answers(MAIL, "421 4.7.0 enough for one connection"),
            Fresh(),
            *(MAIL, TO_BOB, DATA, TEXT),
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: QUEUED}, {BOB: QUEUED}]


def test_a_rested_line_that_breaks_later_is_a_break_like_any_other():
    told = dialogue([Rested(), MAIL, answers(TO_ADA, GONE)])
    (outcome,) = told.outcomes
    assert outcome.fault is Fault.TRANSIENT


def test_a_line_carries_so_many_and_no_more():
    told = dialogue(
        [
            *(MAIL, TO_ADA, DATA, TEXT, (b"QUIT", "221 bye")),
            Fresh(),
            *(MAIL, TO_BOB, DATA, TEXT, (b"QUIT", GONE)),
        ],
        mail(ADA),
        mail(BOB),
        transport=relay(max_per_line=1),
    )
    assert told.receipts == [{ADA: QUEUED}, {BOB: QUEUED}]
    assert told.ends == ["closed", "closed"]


def test_what_a_line_carried_before_it_rested_counts():
    told = dialogue(
        [Rested(carried=2), MAIL, TO_ADA, DATA, TEXT, (b"QUIT", "221 bye")],
        transport=relay(max_per_line=3),
    )
    assert told.receipt == {ADA: QUEUED}


def test_the_server_may_say_how_many_it_takes_on_one_line():
    told = dialogue(
        [MAIL, TO_ADA, DATA, TEXT, (b"QUIT", "221 bye")], offers=("LIMITS RCPTMAX=9 MAILMAX=1",)
    )
    assert told.ends == ["closed"]


@pytest.mark.parametrize("what", ["421 bye", "550 no", GONE])
def test_quit_never_changes_an_outcome(what):
    told = dialogue([MAIL, TO_ADA, DATA, TEXT, (b"QUIT", what)], transport=relay(max_per_line=1))
    assert told.receipt == {ADA: QUEUED}


def test_nobody_there_is_our_own_fault_and_no_message_s():
    told = dialogue([Unreachable(WireError(f"{HOST}:25: no connection"))], mail(ADA), mail(BOB))
    assert told.outcomes == [Deferred(f"{HOST}:25: no connection", Fault.OURS)] * 2


def test_rset_that_is_refused_ends_the_line():
    told = dialogue([MAIL, answers(TO_ADA, "550 no"), (b"RSET", "500 what?")], mail(ADA), mail(BOB))
    first, second = told.outcomes
    assert first == Refused("550 no")
    assert isinstance(second, Deferred)
    assert told.ends == ["closed"]


def test_an_empty_batch_says_nothing():
    assert list(relay().send([])) == []


def test_tls_trouble_names_the_switch():
    told = dialogue(
        [Unreachable(TlsError("relay.example.com:465 certificate verify failed"))],
        transport=relay(host=HOST),
    )
    assert "MAIL_TLS_CA_FILE" in told.outcomes[0].text


def test_a_line_that_begins_with_a_dot_goes_out_with_two():
    told = dialogue(
        [MAIL, TO_ADA, DATA, (b"..a\r\n\r\n..\r\n...\r\nb.\r\n.", "250 ok")],
        mail(ADA, content=b".a\r\n\r\n.\r\n..\r\nb.\r\n"),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_an_overflow_goes_before_the_messages_behind_it():
    told = dialogue(
        [
            *(MAIL, TO_ADA, answers(TO_BOB, "452 4.5.3 too many"), DATA, TEXT),
            *(MAIL, TO_BOB, DATA, TEXT),
            *(MAIL, TO_CYD, DATA, TEXT),
        ],
        mail(ADA, BOB),
        mail(CYD),
    )
    assert told.receipts == [{ADA: QUEUED, BOB: QUEUED}, {CYD: QUEUED}]


def test_an_overflow_that_was_never_begun_costs_nothing_when_the_line_breaks():
    told = dialogue(
        [MAIL, TO_ADA, answers(TO_BOB, "452 4.5.3 too many"), DATA, answers(TEXT, GONE)],
        mail(ADA, BOB),
    )
    assert isinstance(told.receipt[ADA], Unclear)
    assert isinstance(told.receipt[BOB], Deferred)
    assert told.receipt[BOB].fault is Fault.NONE


def test_an_overflow_whose_own_transaction_breaks_keeps_what_was_reached():
    told = dialogue(
        [
            *(MAIL, TO_ADA, answers(TO_BOB, "452 4.5.3 too many"), DATA, TEXT),
            *(MAIL, answers(TO_BOB, GONE)),
        ],
        mail(ADA, BOB),
    )
    assert told.receipt[ADA] == QUEUED
    assert isinstance(told.receipt[BOB], Deferred)


def test_what_broke_the_write_is_what_is_told():
    told = dialogue([MAIL, TO_ADA, DATA, Cut(3, TEXT, heard=[WireError("later noise")])])
    assert [outcome.text for outcome in told.outcomes] == ["cut off"]
