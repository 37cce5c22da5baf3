"""Groups (RFC 2920): the content of one message with the envelope of the next."""

import pytest

from dialogue import GONE, Cut, Fresh, Rested, dialogue, letters, mail
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.transports.smtp_dialogue import MOST_AT_ONCE

ADA, BOB, CYD = "ada@example.org", "bob@example.org", "cyd@example.org"
MAIL = (b"MAIL FROM:<shop@example.com>", "250 ok")
TO_ADA = (b"RCPT TO:<ada@example.org>", "250 ok")
TO_BOB = (b"RCPT TO:<bob@example.org>", "250 ok")
TO_CYD = (b"RCPT TO:<cyd@example.org>", "250 ok")
DATA = (b"DATA", "354 go on")
NO_DATA = (b"DATA", "503 5.5.1 no recipients")
TEXT = (b"Subject: hi\r\n\r\nhello\r\n.", "250 2.0.0 Ok: queued as 7F3")
RSET = (b"RSET", "250 ok")
LONE_DOT = (b".", "554 no recipients")
QUEUED = Accepted("250 2.0.0 Ok: queued as 7F3", "7F3")
TEXT_SIZE = len(TEXT[0]) + 2


def answers(step, reply):
    return (step[0], reply)


def grouped(script, *mails, rested=False):
    begin = [Rested(("PIPELINING",))] if rested else [Fresh(("PIPELINING",))]
    return dialogue([*begin, *script], *(mails or (mail(ADA),)))


def test_a_warm_line_costs_one_round_trip_a_message():
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            [TEXT, MAIL, TO_BOB, DATA],
            [TEXT, MAIL, TO_CYD, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
        mail(CYD),
    )
    assert told.receipts == [{ADA: QUEUED}, {BOB: QUEUED}, {CYD: QUEUED}]
    assert told.ends == ["kept"]


def test_the_content_goes_out_as_it_is_uncopied():
    sent = mail(ADA)
    told = grouped([[MAIL, TO_ADA, DATA], [TEXT]], sent)
    assert told.wrote[-1].blocks[0] is sent.content


def test_a_message_without_recipients_left_gets_no_content_and_rset_leads_the_next():
    told = grouped(
        [
            [MAIL, answers(TO_ADA, "550 5.1.1 no"), NO_DATA],
            [RSET, MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: Refused("550 5.1.1 no")}, {BOB: QUEUED}]


def test_an_unwanted_354_is_ended_with_a_lone_dot_whose_reply_is_ignored():
    for reply in ("554 no recipients", "250 ok"):
        told = grouped(
            [
                [MAIL, answers(TO_ADA, "550 5.1.1 no"), DATA],
                [answers(LONE_DOT, reply), RSET, MAIL, TO_BOB, DATA],
                [TEXT],
            ],
            mail(ADA),
            mail(BOB),
        )
        assert told.receipts == [{ADA: Refused("550 5.1.1 no")}, {BOB: QUEUED}]


@pytest.mark.parametrize("gone", [GONE, "421 bye"])
def test_a_line_that_goes_at_a_lone_dot_is_gone(gone):
    told = grouped(
        [
            [MAIL, answers(TO_ADA, "550 no"), DATA],
            [answers(LONE_DOT, gone), RSET, MAIL, TO_BOB, DATA],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert isinstance(told.outcomes[1], Deferred)
    assert told.ends == ["closed"]


def test_an_unwanted_354_after_a_refused_sender_is_ended_and_reset_too():
    told = grouped(
        [
            [answers(MAIL, "550 5.7.1 not you"), answers(TO_ADA, "503 no"), DATA],
            [LONE_DOT, RSET, MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert letters(told) == "OA"


def test_a_line_that_begins_with_a_dot_goes_out_with_two():
    told = grouped([[MAIL, TO_ADA, DATA], [(b"..\r\n.", "250 ok")]], mail(content=b".\r\n"))
    assert letters(told) == "A"


def test_an_unwanted_354_at_the_end_is_ended_before_the_line_is_kept():
    told = grouped([[MAIL, answers(TO_ADA, "550 no"), DATA], [LONE_DOT]])
    assert told.ends == ["kept"]
    assert told.session.dirty


def test_a_refused_sender_is_our_fault_and_what_follows_in_the_group_is_ignored():
    told = grouped(
        [
            [
                answers(MAIL, "550 5.7.1 not you"),
                answers(TO_ADA, "503 5.5.1 no MAIL"),
                answers(DATA, "503 5.5.1 no MAIL"),
            ],
            [MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [
        {ADA: Deferred("550 5.7.1 not you", Fault.OURS)},
        {BOB: QUEUED},
    ]


def test_data_refused_is_for_those_who_were_taken():
    told = grouped(
        [[MAIL, TO_ADA, answers(TO_BOB, "550 no"), answers(DATA, "451 later")]], mail(ADA, BOB)
    )
    assert told.receipt == {ADA: Deferred("451 later"), BOB: Refused("550 no")}


def test_a_refused_content_does_not_touch_the_next_message():
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            [answers(TEXT, "554 5.7.1 spam"), MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: Refused("554 5.7.1 spam")}, {BOB: QUEUED}]


def test_an_overflow_goes_after_the_message_that_is_already_under_way():
    told = grouped(
        [
            [MAIL, TO_ADA, answers(TO_BOB, "452 4.5.3 too many"), DATA],
            [TEXT, MAIL, TO_CYD, DATA],
            [TEXT, MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA, BOB),
        mail(CYD),
    )
    assert told.receipts == [{CYD: QUEUED}, {ADA: QUEUED, BOB: QUEUED}]


def test_each_report_comes_before_the_next_write():
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            [TEXT, MAIL, TO_BOB, DATA],
            [answers(TEXT, GONE)],
        ],
        mail(ADA),
        mail(BOB),
    )
    first, second = told.outcomes
    assert first == QUEUED
    assert isinstance(second, Unclear)


FIRST = [MAIL, TO_ADA, DATA]
SECOND = [TEXT, MAIL, TO_BOB, DATA]
THIRD = [TEXT, MAIL, TO_CYD, DATA]

BREAKS = [
    # where it breaks, and what becomes of ADA, BOB (under way behind her) and CYD (waiting)
    ([[answers(MAIL, GONE), TO_ADA, DATA]], "TNN"),
    ([[MAIL, answers(TO_ADA, GONE), DATA]], "TNN"),
    ([[MAIL, TO_ADA, answers(DATA, GONE)]], "TNN"),
    ([Cut(3, FIRST)], "TNN"),
    ([FIRST, Cut(0, SECOND)], "TNN"),
    ([FIRST, Cut(TEXT_SIZE - 1, SECOND)], "TNN"),
    ([FIRST, Cut(TEXT_SIZE, SECOND)], "UNN"),
    ([FIRST, [answers(TEXT, GONE), MAIL, TO_BOB, DATA]], "UNN"),
    ([FIRST, [TEXT, MAIL, answers(TO_BOB, GONE), DATA]], "ATN"),
    ([FIRST, [TEXT, MAIL, TO_BOB, answers(DATA, GONE)]], "ATN"),
    ([FIRST, SECOND, Cut(0, THIRD)], "ATN"),
    (
        [
            [MAIL, TO_ADA, DATA],
            SECOND,
            [answers(TEXT, GONE), MAIL, TO_CYD, DATA],
        ],
        "AUN",
    ),
    # It answered half-way, and then the line broke.
    ([FIRST, Cut(9, SECOND, "552 5.3.4 big")], "RNN"),
    ([FIRST, Cut(9, SECOND, "421 bye")], "TNN"),
    ([FIRST, [answers(TEXT, "421 bye"), MAIL, TO_BOB, DATA]], "TNN"),
    ([[answers(MAIL, "421 bye"), TO_ADA, DATA]], "ONN"),
    ([[MAIL, answers(TO_ADA, "421 bye"), DATA]], "TNN"),
    ([[MAIL, answers(TO_ADA, "550 no"), answers(DATA, GONE)]], "RNN"),
    (
        [
            [MAIL, answers(TO_ADA, "550 no"), DATA],
            [answers(LONE_DOT, GONE), RSET, MAIL, TO_BOB, DATA],
        ],
        "RTN",
    ),
]


@pytest.mark.parametrize(("script", "outcomes"), BREAKS)
def test_a_break_at_each_state(script, outcomes):
    told = grouped(script, mail(ADA), mail(BOB), mail(CYD))
    assert letters(told) == outcomes
    assert told.ends == ["closed"]


@pytest.mark.parametrize("gone", [GONE, "421 4.4.2 idle"])
def test_a_line_that_goes_at_mail_after_it_carried_mail_is_followed_by_another(gone):
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            [TEXT, answers(MAIL, gone), answers(TO_BOB, None), answers(DATA, None)],
            Fresh(("PIPELINING",)),
            [MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: QUEUED}, {BOB: QUEUED}]


@pytest.mark.parametrize("gone", [GONE, "421 4.4.2 idle"])
def test_a_rested_line_that_is_gone_at_its_first_mail_is_followed_by_another(gone):
    told = grouped(
        [
            [answers(MAIL, gone), answers(TO_ADA, None), answers(DATA, None)],
            Fresh(("PIPELINING",)),
            [MAIL, TO_ADA, DATA],
            [TEXT],
        ],
        rested=True,
    )
    assert told.receipt == {ADA: QUEUED}


def test_what_had_arrived_before_a_write_broke_is_still_read():
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            Cut(
                TEXT_SIZE + 5,
                [TEXT, MAIL, TO_BOB, DATA],
                "250 2.0.0 Ok: queued as 7F3",
                ["250 2.0.0 Ok: queued as 7F3"],
            ),
            Fresh(("PIPELINING",)),
            [MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB),
    )
    assert told.receipts == [{ADA: QUEUED}, {BOB: QUEUED}]


def test_nothing_is_written_after_a_broken_write_though_all_was_answered():
    told = grouped(
        [
            [MAIL, TO_ADA, DATA],
            Cut(
                TEXT_SIZE + 50,
                [TEXT, MAIL, TO_BOB, DATA],
                "250 ok",
                ["250 ok", "250 ok", "250 ok", "354 go on"],
            ),
        ],
        mail(ADA),
        mail(BOB),
    )
    assert letters(told) == "AT"
    assert b"".join(told.wrote[-1].blocks).startswith(TEXT[0])  # and BOB's never followed
    assert len(told.wrote) == 3


def test_a_crowd_of_recipients_goes_out_in_groups_that_nobody_chokes_on():
    crowd = [f"r{number}@example.org" for number in range(2 * MOST_AT_ONCE + 1)]
    steps = [(f"RCPT TO:<{each}>".encode(), "250 ok") for each in crowd]
    told = grouped(
        [
            [MAIL, *steps[:MOST_AT_ONCE]],
            steps[MOST_AT_ONCE : 2 * MOST_AT_ONCE],
            [steps[-1], DATA],
            [TEXT, MAIL, TO_BOB, DATA],
            [TEXT],
        ],
        mail(*crowd),
        mail(BOB),
    )
    assert told.receipts[0] == dict.fromkeys(crowd, QUEUED)
    assert told.receipts[1] == {BOB: QUEUED}


def test_a_message_that_the_server_cannot_take_is_left_out_of_the_groups():
    told = dialogue(
        [
            [(MAIL[0] + b" SIZE=22", "250 ok"), TO_ADA, DATA],
            [TEXT, (MAIL[0] + b" SIZE=22", "250 ok"), TO_CYD, DATA],
            [TEXT],
        ],
        mail(ADA),
        mail(BOB, content=b"x" * 101),
        mail(CYD),
        offers=("PIPELINING", "SIZE 100"),
    )
    outcomes = {recipient: outcome for each in told.receipts for recipient, outcome in each.items()}
    assert outcomes[ADA] == outcomes[CYD] == QUEUED
    assert isinstance(outcomes[BOB], Refused)
    assert "101" in outcomes[BOB].text
