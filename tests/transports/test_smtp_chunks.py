"""BDAT (RFC 3030): up to a window of messages on their way, unanswered."""

import pytest

from dialogue import GONE, Cut, Fresh, Rested, dialogue, letters, mail, relay
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused
from flask_outbox.transports.smtp_dialogue import MOST_AT_ONCE

ADA, BOB, CYD, DAN, EVE, PIA = (
    f"{name}@example.org" for name in ("ada", "bob", "cyd", "dan", "eve", "pia")
)
OFFERS = ("PIPELINING", "CHUNKING")
MAIL = (b"MAIL FROM:<shop@example.com>", "250 2.1.0 ok")
RSET = (b"RSET", "250 2.0.0 ok")
DATA = (b"DATA", "354 go on")
NO_DATA = (DATA[0], "503 5.5.1 no recipients")
TEXT = (b"Subject: hi\r\n\r\nhello\r\n.", "250 2.0.0 Ok: queued as 7F3")
LONE_DOT = (b".", "554 5.5.1 no recipients")
BDAT = (b"BDAT 22 LAST\r\nSubject: hi\r\n\r\nhello", "250 2.0.0 Ok: queued as 7F3")
NO_BDAT = (BDAT[0], "503 5.5.1 no recipients")
QUEUED = Accepted("250 2.0.0 Ok: queued as 7F3", "7F3")


def to(whom, reply="250 2.1.5 ok"):
    return (f"RCPT TO:<{whom}>".encode(), reply)


def answers(step, reply):
    return (step[0], reply)


def first(whom):
    return [MAIL, to(whom), BDAT]


def later(whom):
    return [RSET, MAIL, to(whom), BDAT]


def silent(group):
    return [answers(step, None) for step in group]


def size(group):
    return sum(len(step[0]) + 2 for step in group)


def careful(whom):
    return [[MAIL, to(whom), DATA], TEXT]


def chunked(script, *mails, window=4, rested=False):
    """Play it on a line whose server has shown, with a message for PIA, that its replies tell."""
    begin = [Rested(OFFERS, tells=True)] if rested else [Fresh(OFFERS), *careful(PIA)]
    pilot = () if rested else (mail(PIA),)
    transport = relay(window=window)
    told = dialogue([*begin, *script], *pilot, *(mails or (mail(ADA),)), transport=transport)
    if not rested:
        assert told.reports.pop(0).receipt == {PIA: QUEUED}
        assert told.flights.pop(0) == 1
    return told


def fresh(script, *mails, window=4):
    """Play it on a line of which nothing is known yet."""
    transport = relay(window=window)
    return dialogue([Fresh(OFFERS), *script], *(mails or (mail(ADA),)), transport=transport)


def test_a_whole_message_is_one_write_and_one_round_trip():
    told = chunked([first(ADA)])
    assert told.receipt == {ADA: QUEUED}
    assert told.ends == ["kept"]


def test_content_travels_as_it_is_dots_and_all_and_uncopied():
    sent = mail(ADA, content=b".\r\n..\r\n.x\r\n")
    told = chunked([[MAIL, to(ADA), (b"BDAT 11 LAST\r\n.\r\n..\r\n.x", "250 2.0.0 ok")]], sent)
    assert told.outcomes == [Accepted("250 2.0.0 ok")]
    assert told.wrote[-1].blocks[-1] is sent.content


def test_as_many_as_the_window_go_out_before_the_first_reply_is_awaited():
    mails = [mail(each) for each in (ADA, BOB, CYD, DAN, EVE)]
    told = chunked([first(ADA), later(BOB), later(CYD), later(DAN), later(EVE)], *mails, window=4)
    assert told.receipts == [{each.recipients[0]: QUEUED} for each in mails]
    assert told.in_the_air == 4


def test_a_window_of_one_has_one_in_doubt_and_needs_no_rset():
    told = chunked([first(ADA), first(BOB)], mail(ADA), mail(BOB), window=1)
    assert told.in_the_air == 1
    assert letters(told) == "AA"


def test_an_at_most_once_message_flies_alone_and_behind_its_354():
    told = chunked(
        [first(ADA), later(BOB), *careful(CYD), first(DAN), later(EVE)],
        mail(ADA),
        mail(BOB),
        mail(CYD, at_most_once=True),
        mail(DAN),
        mail(EVE),
    )
    assert letters(told) == "AAAAA"
    # ADA and BOB together, CYD alone, DAN and EVE together.
    assert told.flights == [2, 1, 1, 2, 1]


def test_a_refused_message_does_not_touch_those_behind_it():
    told = chunked(
        [
            [MAIL, to(ADA, "550 no"), NO_BDAT],
            [RSET, answers(MAIL, "550 5.7.1 not you"), to(BOB, "503 no MAIL"), NO_BDAT],
            [RSET, MAIL, to(CYD), answers(BDAT, "554 5.7.1 spam")],
            later(DAN),
        ],
        *map(mail, (ADA, BOB, CYD, DAN)),
    )
    assert told.outcomes == [
        Refused("550 no"),
        Deferred("550 5.7.1 not you", Fault.OURS),
        Refused("554 5.7.1 spam"),
        QUEUED,
    ]


def test_rset_leads_the_next_transaction_when_the_last_one_failed():
    told = chunked([[MAIL, to(ADA, "550 no"), NO_BDAT]])
    assert told.session.dirty
    assert not chunked([first(ADA)]).session.dirty


def test_recipients_too_many_go_in_a_further_transaction():
    told = chunked(
        [
            [MAIL, to(ADA), to(BOB, "452 4.5.3 too many"), BDAT],
            later(CYD),
            later(BOB),
        ],
        mail(ADA, BOB),
        mail(CYD),
    )
    assert {tuple(receipt): set(receipt.values()) for receipt in told.receipts} == {
        (ADA, BOB): {QUEUED},
        (CYD,): {QUEUED},
    }


def sent_behind(group):
    """Put BOB's and CYD's out behind it; they are never answered."""
    return [group, silent(later(BOB)), silent(later(CYD))]


BREAKS = [
    # what breaks, and what becomes of ADA, BOB, CYD; all three are within the window
    ([Cut(size(first(ADA)), first(ADA))], "UNN"),
    ([silent(first(ADA)), Cut(0, later(BOB))], "UNN"),
    ([silent(first(ADA)), Cut(size(later(BOB)), later(BOB))], "UUN"),
    (sent_behind([answers(MAIL, GONE), *silent([to(ADA), BDAT])]), "UUU"),
    (sent_behind([MAIL, to(ADA, GONE), answers(BDAT, None)]), "UUU"),
    (sent_behind([MAIL, to(ADA), answers(BDAT, GONE)]), "UUU"),
    (sent_behind([MAIL, to(ADA, "550 no"), answers(BDAT, GONE)]), "RUU"),
    ([first(ADA), [answers(RSET, GONE), *silent(first(BOB))], silent(later(CYD))], "AUU"),
    ([first(ADA), [RSET, MAIL, to(BOB), answers(BDAT, GONE)], silent(later(CYD))], "AUU"),
    # 421: nothing behind it was taken, and the server says so
    (sent_behind([MAIL, to(ADA, "421 bye"), answers(BDAT, None)]), "TNN"),
    (sent_behind([MAIL, to(ADA), answers(BDAT, "421 bye")]), "TNN"),
    (sent_behind([MAIL, to(ADA, "550 no"), answers(BDAT, "421 bye")]), "RNN"),
    # out of step: nothing that follows can be trusted
    (sent_behind([MAIL, to(ADA), answers(BDAT, "354 what?")]), "UUU"),
    ([first(ADA), [answers(RSET, "500 what?"), *silent(first(BOB))], silent(later(CYD))], "AUU"),
]


@pytest.mark.parametrize(("script", "outcomes"), BREAKS)
def test_a_break_at_each_state(script, outcomes):
    told = chunked(script, mail(ADA), mail(BOB), mail(CYD))
    assert letters(told) == outcomes
    assert told.ends == ["closed"]


@pytest.mark.parametrize(
    "gone",
    [
        Cut(0, first(ADA)),
        Cut(size(first(ADA)) - 1, first(ADA)),
        [answers(MAIL, "421 bye"), *silent([to(ADA), BDAT])],
    ],
)
def test_a_line_that_goes_before_a_content_is_whole_costs_nothing_but_a_new_line(gone):
    told = chunked([gone, Fresh(OFFERS), *careful(ADA)], window=1)
    assert told.outcomes == [QUEUED]
    assert told.ends == ["closed", "kept"]


# --- a server that is not known yet ---


def test_the_first_message_on_a_line_is_heard_to_its_end_before_others_follow():
    told = fresh([*careful(ADA), first(BOB), later(CYD)], *map(mail, (ADA, BOB, CYD)))
    assert letters(told) == "AAA"
    assert told.flights == [1, 2, 1]
    assert told.session.tells


@pytest.mark.parametrize(
    ("state", "letter"), [(0, "O"), (1, "T"), (2, "T")], ids=["MAIL", "RCPT", "DATA"]
)
def test_a_break_before_the_content_of_the_first_message_leaves_no_doubt(state, letter):
    steps = [MAIL, to(ADA), DATA]
    before, behind = steps[:state], silent(steps[state + 1 :])
    told = fresh([[*before, answers(steps[state], GONE), *behind]], mail(ADA), mail(BOB))
    assert letters(told) == "TN"
    told = fresh([[*before, answers(steps[state], "421 bye"), *behind]], mail(ADA), mail(BOB))
    assert letters(told) == f"{letter}N"


@pytest.mark.parametrize(
    ("cut", "outcomes"), [(0, "TN"), (len(TEXT[0]) + 1, "TN"), (len(TEXT[0]) + 2, "UN")]
)
def test_the_content_of_the_first_message_is_in_doubt_once_its_last_dot_is_out(cut, outcomes):
    told = fresh([[MAIL, to(ADA), DATA], Cut(cut, TEXT)], mail(ADA), mail(BOB))
    assert letters(told) == outcomes


def test_one_reply_too_many_in_the_first_envelope_is_not_the_answer_to_its_content():
    """The true reply to RCPT comes late, where the 354 is awaited: no content is sent after it."""
    off_by_one = [MAIL, to(ADA, "250 one too many"), answers(DATA, "250 2.1.5 ok")]
    told = fresh([off_by_one], mail(ADA), mail(BOB))
    assert letters(told) == "TN"
    assert told.ends == ["closed"]
    assert told.in_the_air == 0


def test_the_first_content_travels_with_its_dots_doubled():
    told = fresh([[MAIL, to(ADA), DATA], (b"..\r\n.", "250 ok")], mail(ADA, content=b".\r\n"))
    assert letters(told) == "A"


def test_a_first_message_that_nobody_takes_gets_no_content_and_teaches_nothing():
    told = fresh(
        [[MAIL, to(ADA, "550 no"), NO_DATA], [RSET, MAIL, to(BOB), DATA], TEXT, first(CYD)],
        *map(mail, (ADA, BOB, CYD)),
    )
    assert letters(told) == "RAA"


def test_an_unwanted_354_is_ended_with_a_lone_dot_whose_reply_is_ignored_and_teaches_nothing():
    for reply in ("554 no recipients", "250 2.0.0 ok"):
        unwanted = [[MAIL, to(ADA, "550 no"), DATA], answers(LONE_DOT, reply)]
        told = fresh(
            [*unwanted, [RSET, MAIL, to(BOB), DATA], TEXT, first(CYD)],
            *map(mail, (ADA, BOB, CYD)),
        )
        assert letters(told) == "RAA"
        told = fresh(unwanted)
        assert told.ends == ["kept"]
        assert told.session.dirty
        assert not told.session.tells


@pytest.mark.parametrize("gone", [GONE, "421 bye"])
def test_a_line_that_goes_at_a_lone_dot_is_gone(gone):
    told = fresh([[MAIL, to(ADA, "550 no"), DATA], answers(LONE_DOT, gone)], mail(ADA), mail(BOB))
    assert letters(told) == "RN"
    assert told.ends == ["closed"]


def test_recipients_too_many_for_the_first_transaction_go_in_a_further_one():
    told = fresh(
        [[MAIL, to(ADA), to(BOB, "452 4.5.3 too many"), DATA], TEXT, first(BOB)], mail(ADA, BOB)
    )
    assert told.receipt == {ADA: QUEUED, BOB: QUEUED}


@pytest.mark.parametrize(
    ("at_mail", "at_rcpt", "at_content"),
    [
        ("250 ok", "250 2.1.5 ok", "250 2.0.0 ok"),
        ("250 2.1.0 ok", "250 ok", "250 2.0.0 ok"),
        ("250 2.1.0 ok", "250 2.1.5 ok", "250 ok"),
        ("250 2.1.0 ok", "250 2.1.5 ok", "250 2.1.0 ok"),
        ("250 2.0.0 ok", "250 2.0.0 ok", "250 2.0.0 ok"),
        ("250 2.1.0 ok", "250 2.1.5 ok", "554 5.7.1 spam"),
    ],
)
def test_behind_replies_that_do_not_tell_what_they_answer_one_content_goes_at_a_time(
    at_mail, at_rcpt, at_content
):
    def steps(whom):
        return [[answers(MAIL, at_mail), to(whom, at_rcpt), DATA], answers(TEXT, at_content)]

    told = fresh([*steps(ADA), *steps(BOB)], mail(ADA), mail(BOB))
    assert told.in_the_air == 1
    assert not told.session.tells
    assert letters(told) == ("RR" if at_content.startswith("5") else "AA")


@pytest.mark.parametrize(
    "one_off",
    [
        [answers(MAIL, "250 2.0.0 extra"), to(ADA, "250 2.1.0 ok"), answers(BDAT, "250 2.1.5 ok")],
        [answers(MAIL, "250 2.1.0 ok"), to(ADA, "250 2.1.0 ok"), answers(BDAT, "250 2.1.5 ok")],
        [MAIL, to(ADA), answers(BDAT, "250 2.1.5 ok")],
        [MAIL, to(ADA), answers(BDAT, "250 ok")],
        [MAIL, to(ADA, "250 ok"), BDAT],
        [answers(MAIL, "250 ok"), to(ADA), BDAT],
    ],
)
def test_a_yes_that_belongs_to_another_question_is_none(one_off):
    told = chunked([one_off])
    assert letters(told) == "U"
    assert told.ends == ["closed"]


# --- breaks ---


def test_what_had_arrived_before_a_write_broke_is_still_read_and_the_rest_gets_another_line():
    told = chunked(
        [first(ADA), Cut(0, later(BOB)), Fresh(OFFERS), *careful(BOB), first(CYD)],
        *map(mail, (ADA, BOB, CYD)),
    )
    assert letters(told) == "AAA"


def test_a_reply_before_the_break_decides_over_the_break():
    told = chunked([[MAIL, to(ADA), DATA], Cut(9, TEXT, "552 5.3.4 too big")], rested=True)
    assert told.outcomes == [Refused("552 5.3.4 too big")]


@pytest.mark.parametrize(
    ("cut", "answer", "outcome"),
    [(60, "552 5.3.4 too big", "R"), (size(first(ADA)), "250 2.0.0 ok", "A")],
)
def test_after_a_broken_write_that_was_answered_to_its_end_the_rest_gets_another_line(
    cut, answer, outcome
):
    told = chunked(
        [
            Cut(cut, first(ADA), heard=["250 2.1.0 ok", "250 2.1.5 ok", answer]),
            Fresh(OFFERS),
            *careful(BOB),
        ],
        mail(ADA),
        mail(BOB),
    )
    assert letters(told) == f"{outcome}A"


def test_a_rested_line_is_tried_with_an_envelope_before_a_content_is_at_stake():
    told = chunked(
        [*careful(ADA), first(BOB), later(CYD)], *map(mail, (ADA, BOB, CYD)), rested=True
    )
    assert letters(told) == "AAA"
    assert told.flights == [1, 2, 1]


@pytest.mark.parametrize("gone", [GONE, "421 4.4.2 idle"])
def test_a_rested_line_that_is_gone_costs_nothing_but_a_new_line(gone):
    told = chunked(
        [
            [answers(MAIL, gone), *silent([to(ADA), DATA])],
            Fresh(OFFERS),
            *careful(ADA),
            first(BOB),
        ],
        mail(ADA),
        mail(BOB),
        rested=True,
    )
    assert letters(told) == "AA"


def test_a_rested_line_whose_first_message_has_no_recipients_left_goes_on_with_rset():
    for group in (
        [[MAIL, to(ADA, "550 no"), NO_DATA]],
        [[MAIL, to(ADA, "550 no"), DATA], LONE_DOT],
    ):
        told = chunked([*group, later(BOB)], mail(ADA), mail(BOB), rested=True)
        assert letters(told) == "RA"


def test_421_after_some_were_taken_sends_the_others_over_another_line():
    told = chunked(
        [
            first(ADA),
            [RSET, answers(MAIL, "421 4.7.0 enough"), *silent([to(BOB), BDAT])],
            silent(later(CYD)),
            Fresh(OFFERS),
            *careful(BOB),
            first(CYD),
        ],
        *map(mail, (ADA, BOB, CYD)),
    )
    assert letters(told) == "AAA"
    assert told.ends == ["closed", "kept"]


def test_a_crowd_of_recipients_goes_out_in_groups_before_the_content():
    crowd = [f"r{number}@example.org" for number in range(MOST_AT_ONCE + 1)]
    steps = [to(each) for each in crowd]
    told = chunked(
        [first(ADA), [MAIL, *steps[:-1]], [steps[-1], DATA], TEXT, first(BOB)],
        mail(ADA),
        mail(*crowd),
        mail(BOB),
    )
    assert set(letters(told)) == {"A"}


def test_without_pipelining_chunking_is_of_no_use_and_not_used():
    told = dialogue(
        [
            MAIL,
            to(ADA),
            (b"DATA", "354 go on"),
            (b"Subject: hi\r\n\r\nhello\r\n.", "250 ok"),
        ],
        offers=("CHUNKING",),
    )
    assert letters(told) == "A"
