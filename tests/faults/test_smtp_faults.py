"""What a mail server may do to a mail, and what must become of the mail: S and T of the faults.

The real transport, carried by each of the real drivers, against a server that misbehaves on
purpose. What the server wrote down as accepted is the verdict, never our own word.
"""

from dataclasses import replace
from time import monotonic

import pytest

import certificates
from flask_outbox.mail.exchange import Tls
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.smtp_login import Security
from flask_outbox.transports.smtp_timeouts import Timeouts
from hostile import (
    EXTENSIONS,
    Hostile,
    after,
    dribble,
    flood,
    hang_up,
    polite,
    raw,
    reset,
    say,
    stall,
    take,
    then,
)
from wire_drivers import DRIVERS

LIMIT = 0.2  # seconds: small, so that it is seen to fire
PATIENCE = 60.0  # seconds that a message is given, which would end it where no limit does
BOUND = PATIENCE / 2  # tells the one from the other, on however busy a machine
SHORT = Timeouts(
    connect=LIMIT, greeting=LIMIT, tls=LIMIT, command=LIMIT, rcpt=LIMIT, block=LIMIT, dot=LIMIT
)
ADA, BOB, EVE = "ada@reader.example", "bob@reader.example", "eve@reader.example"
HEAD = b"From: shop@shop.example\r\nSubject: hello\r\n"
OURS = Tls(ca_file=certificates.ca_file())
LOGIN = {"username": "ada", "password": "s3cret-word"}

# How one speaks depends on what the server offers; each fault is tried in each way.
WAYS = {
    "in lock-step": [word for word in EXTENSIONS if word != "PIPELINING"],
    "in groups": list(EXTENSIONS),
    "in chunks": [*EXTENSIONS, "CHUNKING"],
}


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request):
    driver = request.param()
    yield driver
    driver.close()


@pytest.fixture(params=WAYS)
def offers(request):
    return WAYS[request.param]


def failed(point):
    """Say what becomes of a mail whose line failed there."""
    return Unclear if point == "dot" else Deferred


def mail(number=1, recipients=(ADA,), body=b"hello\r\n"):
    name = f"<{number}@shop.example>"
    content = HEAD + b"Message-ID: " + name.encode() + b"\r\n\r\n" + body
    return Submission(
        sender="shop@shop.example",
        recipients=tuple(recipients),
        content=content,
        message_id=name,
        date=0.0,
    )


def receipts_of(driver, server, *mails, seconds=PATIENCE, **smtp):
    host = "localhost" if server.tls else "127.0.0.1"
    transport = Smtp(host, server.port, **smtp)
    reports = driver.carry(transport.send(mails or (mail(),)), seconds)
    assert [report.submission.message_id for report in reports] or not mails
    assert len({report.submission.message_id for report in reports}) == len(reports)
    return {report.submission.message_id: report.receipt for report in reports}


def outcome_of(driver, server, one=None, **smtp):
    one = one or mail()
    return receipts_of(driver, server, one, **smtp)[one.message_id][ADA]


# --- S1: 421 ---


@pytest.mark.parametrize("point", ["greet", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
def test_s1_a_server_that_is_closing_defers_the_mail_and_the_line_is_left(driver, offers, point):
    with Hostile({point: then(say(b"421 4.3.2 closing"), hang_up)}, offers) as server:
        outcome = outcome_of(driver, server)
        assert isinstance(outcome, Deferred)
        assert len(driver.pool) == 0
    assert server.accepted == []
    assert server.connections == 1


@pytest.mark.parametrize(
    "act", [then(say(b"421 4.4.2 idle"), hang_up), hang_up, reset], ids=["421", "FIN", "RST"]
)
def test_s1_a_kept_line_that_is_gone_at_its_first_mail_is_opened_anew(driver, offers, act):
    with Hostile({"MAIL": [polite, act]}, offers) as server:
        receipts_of(driver, server, mail(1))
        receipt = receipts_of(driver, server, mail(2))["<2@shop.example>"]
        assert receipt.accepted == [ADA]
        assert server.connections == 2
    assert server.message_ids == ["<1@shop.example>", "<2@shop.example>"]


# --- S2, S3: 4xx and 5xx ---


@pytest.mark.parametrize("point", ["RCPT", "DATA", "dot"])
def test_s2_greylisting_is_for_later_and_costs_an_attempt(driver, offers, point):
    with Hostile({point: say(b"451 4.7.1 try later")}, offers) as server:
        outcome = outcome_of(driver, server)
    assert outcome == Deferred("451 4.7.1 try later", Fault.TRANSIENT)
    assert server.accepted == []


@pytest.mark.parametrize("point", ["RCPT", "DATA", "dot"])
def test_s3_what_is_refused_for_good_is_refused_for_that_recipient(driver, offers, point):
    with Hostile({point: say(b"550 5.1.1 no such user")}, offers) as server:
        assert outcome_of(driver, server) == Refused("550 5.1.1 no such user")
    assert server.accepted == []


@pytest.mark.parametrize("said", [b"530 5.7.0 log in", b"554 5.7.1 not you", b"550 5.7.1 policy"])
def test_s3_a_sender_that_is_not_wanted_is_our_fault(driver, offers, said):
    with Hostile({"MAIL": say(said)}, offers) as server:
        assert outcome_of(driver, server) == Deferred(said.decode(), Fault.OURS)


@pytest.mark.parametrize("said", [b"535 5.7.8 wrong", b"454 4.7.0 not now", b"421 4.7.0 no"])
def test_s3_a_login_that_is_not_taken_is_our_fault_and_tells_no_secret(driver, said):
    with Hostile({"AUTH": say(said)}, auth="PLAIN") as server:
        outcome = outcome_of(driver, server, **LOGIN)
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "MAIL_USERNAME" in outcome.text
    assert said.decode()[:3] in outcome.text
    assert "s3cret" not in outcome.text
    assert "MAIL" not in server.verbs()


# --- S4: RST and FIN at every state ---

BEFORE_THE_DOT = ["greet", "EHLO", "MAIL", "RCPT", "DATA", "body"]


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
@pytest.mark.parametrize("point", BEFORE_THE_DOT)
def test_s4_a_line_that_breaks_before_the_last_byte_defers(driver, offers, point, act):
    body = b"hello\r\n"
    script = {point: act}
    if point == "body":
        body, script = b"x" * 78 + b"\r\n", {point: after(100_000, act)}
        body *= 500_000
    with Hostile(script, offers, receive_buffer=65_536) as server:
        outcome = outcome_of(driver, server, mail(body=body))
        assert isinstance(outcome, failed(point))
        assert len(driver.pool) == 0
    assert server.accepted == []


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
@pytest.mark.parametrize("point", ["STARTTLS", "AUTH"])
def test_s4_a_line_that_breaks_on_the_way_in_defers_and_tells_no_more(driver, point, act):
    with Hostile({point: act}, tls=certificates.server_context(), auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, **LOGIN)
        assert len(driver.pool) == 0
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "the connection" in outcome.text
    assert server.verbs()[-1] == point
    assert server.connections == 1


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
def test_s4_a_line_that_breaks_between_two_words_of_a_login_defers(driver, act):
    script = {"AUTH": then(say(b"334 VXNlcm5hbWU6"), act)}
    with Hostile(script, auth="LOGIN") as server:
        outcome = outcome_of(driver, server, **LOGIN)
        assert len(driver.pool) == 0
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "MAIL" not in server.verbs()


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
@pytest.mark.parametrize("taken", [False, True], ids=["and forgets it", "and has taken it"])
def test_s4_a_line_that_breaks_after_the_dot_leaves_it_unclear(driver, offers, act, taken):
    with Hostile({"dot": then(take, act) if taken else act}, offers) as server:
        outcome = outcome_of(driver, server)
    assert isinstance(outcome, Unclear)
    assert len(server.accepted) == taken


@pytest.mark.parametrize(
    "act",
    [reset, hang_up, say(b"500 what?"), stall],
    ids=["RST", "FIN", "an error", "silence"],
)
def test_s4_whatever_comes_of_quit_the_mail_is_accepted(driver, offers, act):
    with Hostile({"QUIT": act}, offers) as server:
        outcome = outcome_of(
            driver, server, max_per_line=1, timeouts=replace(Timeouts(), quit=LIMIT)
        )
        assert isinstance(outcome, Accepted)
        server.wait_until(lambda server: "QUIT" in server.verbs())


def test_s4_a_line_that_breaks_between_two_mails_leaves_neither_in_doubt_for_long(driver, offers):
    """The first is accepted, the second breaks at MAIL and goes over another line."""
    second_breaks = [lambda session: session.polite(), reset]
    with Hostile({"MAIL": second_breaks}, offers) as server:
        receipts = receipts_of(driver, server, mail(1), mail(2))
    first, second = receipts["<1@shop.example>"][ADA], receipts["<2@shop.example>"][ADA]
    assert isinstance(first, Accepted | Unclear)
    assert isinstance(second, Accepted | Deferred | Unclear)
    if isinstance(second, Deferred):
        assert "<2@shop.example>" not in server.message_ids
    assert "<1@shop.example>" in server.message_ids or not isinstance(first, Accepted)


@pytest.mark.parametrize("lost", range(1, 6))
def test_s4_of_a_batch_only_what_was_on_its_way_is_in_doubt(driver, offers, lost):
    """The line breaks after the n-th dot: those before are accepted, those behind are free."""
    mails = [mail(number) for number in range(1, 9)]
    dots = [*[polite] * (lost - 1), then(take, reset), *[reset] * 8]
    with Hostile({"dot": dots}, offers) as server:
        receipts = receipts_of(driver, server, *mails)
    outcomes = [receipts[each.message_id][ADA] for each in mails]
    doubtful = [outcome for outcome in outcomes if isinstance(outcome, Unclear)]
    assert all(isinstance(outcome, Accepted | Unclear) for outcome in outcomes[:lost])
    assert 1 <= len(doubtful) <= 4
    known = {m.message_id for m, o in zip(mails, outcomes, strict=True) if isinstance(o, Accepted)}
    assert known <= set(server.message_ids)
    for each, outcome in zip(mails, outcomes, strict=True):
        if isinstance(outcome, Deferred):
            assert each.message_id not in server.message_ids


# --- S5 ---


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
def test_s5_a_refusal_within_the_content_counts_though_the_line_breaks(driver, offers, act):
    refusal = after(100_000, then(say(b"552 5.3.4 too much"), act))
    big = mail(body=(b"x" * 78 + b"\r\n") * 400_000)
    with Hostile({"body": refusal}, offers, receive_buffer=65_536) as server:
        assert outcome_of(driver, server, big) == Refused("552 5.3.4 too much")


# --- S6, S7: time ---


@pytest.mark.parametrize("point", ["greet", "EHLO", "MAIL", "RCPT", "DATA", "dot"])
@pytest.mark.parametrize(
    "act", [stall, dribble(b"250-slow\r\n" * 1000, 0.02)], ids=["silent", "dribbling"]
)
def test_s6_s7_a_server_that_takes_for_ever_is_given_up_in_time(driver, offers, point, act):
    with Hostile({point: act}, offers) as server:
        start = monotonic()
        outcome = outcome_of(driver, server, timeouts=SHORT)
        took = monotonic() - start
    assert isinstance(outcome, failed(point))
    assert LIMIT <= took < BOUND


@pytest.mark.parametrize(
    ("message", "phase"), [(LIMIT, 60.0), (60.0, LIMIT)], ids=["the message's", "the phase's"]
)
def test_s6_a_server_that_stops_reading_is_given_up_in_time(
    driver, offers, monkeypatch, message, phase
):
    """It reads on only once it was given up; which limit it was is told by half of the other."""
    monkeypatch.setattr(Timeouts, "content", lambda *_: phase)
    big = mail(body=(b"x" * 78 + b"\r\n") * 100_000)  # more than the kernels of both sides take
    with Hostile({"body": stall}, offers, receive_buffer=65_536) as server:
        start = monotonic()
        outcome = outcome_of(driver, server, big, seconds=message)
        took = monotonic() - start
    assert isinstance(outcome, Deferred)
    assert "kept us waiting too long" in outcome.text
    assert LIMIT <= took < 30


def test_s6_the_answer_to_the_mail_is_awaited_for_ten_minutes():
    assert Timeouts().dot == 600.0


# --- S8, S9: rubbish ---

RUBBISH = {
    "no code": b"ok\r\n",
    "two digits": b"25 ok\r\n",
    "empty": b"\r\n",
    "LF only": b"250 ok\n",
    "mixed codes": b"250-fine\r\n550 no\r\n",
    "mixed codes, the other way": b"550-no\r\n250 fine\r\n",
    "not UTF-8": b"250 \xff\xfe\r\n",
    "other digits": "\u0662\u0665\u0660 ok\r\n".encode(),
}


@pytest.mark.parametrize("point", ["greet", "EHLO", "MAIL", "RCPT", "dot"])
@pytest.mark.parametrize("said", RUBBISH.values(), ids=RUBBISH)
def test_s8_what_is_no_reply_is_never_taken_for_yes(driver, offers, point, said):
    with Hostile({point: raw(said)}, offers) as server:
        outcome = outcome_of(driver, server)
        assert isinstance(outcome, failed(point))
        assert len(driver.pool) == 0
    assert server.accepted == [] or isinstance(outcome, Unclear)


@pytest.mark.parametrize("point", ["STARTTLS", "AUTH"])
@pytest.mark.parametrize("said", [*RUBBISH.values(), b"22 go\r\n", b"235 2.7.0 ok\n"])
def test_s8_what_is_no_reply_lets_nobody_in(driver, point, said):
    context = certificates.server_context()
    with Hostile({point: raw(said)}, tls=context, auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, **LOGIN)
        assert len(driver.pool) == 0
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert server.verbs()[-1] == point


@pytest.mark.parametrize(
    "said", [*RUBBISH.values(), b"354 go on\n", b"35 go on\r\n", b"354-go\r\n250 on\r\n"]
)
def test_s8_what_is_no_reply_to_data_draws_no_content(driver, offers, said):
    with Hostile({"DATA": raw(said)}, offers) as server:
        outcome = outcome_of(driver, server)
        assert len(driver.pool) == 0
    assert isinstance(outcome, Deferred)
    assert server.verbs()[-1] == "DATA"
    assert server.accepted == []


@pytest.mark.parametrize("point", ["EHLO", "MAIL", "RCPT"])
def test_s8_one_reply_too_many_is_never_taken_for_an_answer_to_the_mail(driver, offers, point):
    """Counted one off, the 250 for RCPT would be the one for the mail."""
    twice = raw(b"250 ok\r\n250 ok\r\n")
    with Hostile({point: twice, "dot": say(b"554 5.6.0 no")}, offers) as server:
        outcome = outcome_of(driver, server)
    assert isinstance(outcome, Deferred)
    assert server.accepted == []


def test_s8_nor_where_the_true_reply_comes_late(driver, offers):
    """RCPT is answered once we have said more: what waits for a 250 then would have it."""
    script = {
        "MAIL": raw(b"250 ok\r\n250 ok\r\n"),
        "RCPT": after(1, polite),
        "dot": say(b"554 5.6.0 no"),
    }
    with Hostile(script, offers) as server:
        outcome = outcome_of(driver, server)
    assert isinstance(outcome, Deferred)
    assert server.accepted == []


@pytest.mark.parametrize("way", ["in groups", "in chunks"])
@pytest.mark.parametrize("point", ["RSET", "MAIL", "RCPT"])
@pytest.mark.parametrize("extra", [b"250 ok", b"250 2.1.0 ok", b"250 2.1.5 ok"])
def test_s8_nor_is_it_on_a_line_that_has_carried_mail(driver, way, point, extra):
    """Here contents may be on their way already; none that was not taken counts as accepted."""
    mails = [mail(number) for number in range(1, 7)]
    refused = [polite, polite, *[say(b"554 5.6.0 no")] * 4]
    once = [polite, *[then(polite, raw(extra + b"\r\n"))] * 5]
    with Hostile({point: once, "dot": refused}, WAYS[way]) as server:
        receipts = receipts_of(driver, server, *mails)
    told = {each for each, receipt in receipts.items() if receipt.accepted}
    assert told <= set(server.message_ids)


@pytest.mark.parametrize(
    "act",
    [
        raw(b"250 " + b"x" * 200_000),
        flood(b"250-more\r\n"),
        raw(b"250-X\r\n" * 10_000 + b"250 Y\r\n"),
    ],
    ids=["a 200 kB line", "endless lines", "10,000 capabilities"],
)
@pytest.mark.parametrize("point", ["EHLO", "MAIL"])
def test_s9_what_is_too_much_is_given_up_at_once(driver, offers, point, act):
    with Hostile({point: act}, offers) as server:
        start = monotonic()
        outcome = outcome_of(driver, server)
        assert monotonic() - start < 10
    assert isinstance(outcome, failed(point))


# --- S10, S11: several recipients ---


def test_s10_each_recipient_has_an_outcome_of_its_own(driver, offers):
    rcpts = [say(b"250 ok"), say(b"550 5.1.1 unknown"), say(b"451 4.2.0 later")]
    with Hostile({"RCPT": rcpts}, offers) as server:
        receipt = receipts_of(driver, server, mail(1, (ADA, BOB, EVE)))["<1@shop.example>"]
    assert isinstance(receipt[ADA], Accepted)
    assert receipt[BOB] == Refused("550 5.1.1 unknown")
    assert receipt[EVE] == Deferred("451 4.2.0 later")
    assert list(receipt) == [ADA, BOB, EVE]


def test_s11_a_mail_that_nobody_takes_is_not_handed_in(driver, offers):
    nobody = [say(b"550 5.1.1 unknown")] * 2
    with Hostile({"RCPT": nobody}, offers) as server:
        receipts = receipts_of(driver, server, mail(1, (ADA, BOB)), mail(2))
    assert receipts["<1@shop.example>"].refused == [ADA, BOB]
    assert receipts["<2@shop.example>"].accepted == [ADA]
    assert server.message_ids == ["<2@shop.example>"]


def test_s11_a_server_that_wants_content_for_nobody_gets_none(driver, offers):
    with Hostile({"RCPT": [say(b"550 5.1.1 unknown")]}, offers, careless=True) as server:
        receipts = receipts_of(driver, server, mail(1), mail(2))
    assert receipts["<1@shop.example>"].refused == [ADA]
    assert receipts["<2@shop.example>"].accepted == [ADA]
    assert server.message_ids[-1] == "<2@shop.example>"


def test_s11_too_many_recipients_for_one_are_sent_in_two(driver, offers):
    many = [f"reader{number}@reader.example" for number in range(5)]
    rcpts = [*[say(b"250 ok")] * 3, *[say(b"452 4.5.3 too many recipients")] * 2]
    with Hostile({"RCPT": rcpts}, offers) as server:
        receipt = receipts_of(driver, server, mail(1, many))["<1@shop.example>"]
    assert receipt.accepted == many
    assert server.message_ids == ["<1@shop.example>"] * 2


# --- S12: what a server cannot take ---


def test_s12_a_mail_larger_than_the_server_takes_is_refused_before_mail(driver, offers):
    small = [word if "SIZE" not in word else "SIZE 50" for word in offers]
    with Hostile(extensions=small) as server:
        outcome = outcome_of(driver, server)
    assert isinstance(outcome, Refused)
    assert "50" in outcome.text
    assert "MAIL" not in server.verbs()


@pytest.mark.parametrize("lacks", ["SMTPUTF8", "8BITMIME"])
def test_s12_what_the_server_lacks_is_a_refusal_that_names_it(driver, offers, lacks):
    one = mail(body="gr\u00fc\u00dfe\r\n".encode())
    if lacks == "SMTPUTF8":
        one = replace(mail(), utf8=True)
    with Hostile(extensions=[word for word in offers if word != lacks]) as server:
        outcome = outcome_of(driver, server, one)
    assert isinstance(outcome, Refused)
    assert lacks in outcome.text
    assert "MAIL" not in server.verbs()


BODIES = {
    "leading dots": b".\r\n..\r\n.a\r\n",
    "the end in the middle": b"a\r\n.\r\nMAIL FROM:<evil@shop.example>\r\n",
    "a line of 998": b"x" * 998 + b"\r\n",
    "no final line end": b"a",
    "nothing": b"",
    "a dot at the very end": b"a\r\n.",
}


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_s12_a_body_arrives_byte_by_byte_and_as_one_mail(driver, offers, body, lenient):
    one = mail(body=body)
    with Hostile(extensions=offers, lenient=lenient) as server:
        receipts = receipts_of(driver, server, mail(2), one)  # the second may go as a chunk
    assert receipts[one.message_id].accepted == [ADA]
    _, arrived = server.accepted
    assert arrived.content.removesuffix(b"\r\n") == one.content.removesuffix(b"\r\n")
    assert "evil@shop.example" not in arrived.sender


@pytest.mark.parametrize("body", [b"a\n.\r\nMAIL\r\n", b"a\r.\r", b"a\n.\n", b"a\r\n.\r"])
def test_s12_a_body_that_a_careless_server_could_end_too_early_is_refused(driver, offers, body):
    with Hostile(extensions=offers, lenient=True) as server:
        outcome = outcome_of(driver, server, mail(body=body))
        if isinstance(outcome, Accepted):
            assert len(server.accepted) == 1
        else:
            assert isinstance(outcome, Refused)
            assert server.accepted == []


# --- S1 to S8 for a content that leaves with its envelope, as BDAT ---

IN_ONE = ["RCPT", "BDAT", "dot"]


def second_of(driver, point, act, one=None, **smtp):
    """Say what becomes of a mail behind one that showed that the replies tell what they answer."""
    one = one or mail(2)
    script = {point: act if point == "BDAT" else [polite, act]}
    with Hostile(script, WAYS["in chunks"], receive_buffer=65_536) as server:
        receipts = receipts_of(driver, server, mail(1), one, **smtp)
        assert server.verbs().count("DATA") == 1
        assert server.connections == 1
    outcome = receipts[one.message_id][ADA]
    assert receipts["<1@shop.example>"].accepted == [ADA]
    assert isinstance(outcome, Unclear) or server.message_ids == ["<1@shop.example>"]
    return outcome


@pytest.mark.parametrize("point", IN_ONE)
def test_s1_a_server_that_is_closing_defers_a_chunk_too(driver, point):
    outcome = second_of(driver, point, then(say(b"421 4.3.2 closing"), hang_up))
    assert isinstance(outcome, Deferred)
    assert len(driver.pool) == 0


@pytest.mark.parametrize("point", IN_ONE)
def test_s2_s3_a_chunk_is_refused_for_now_or_for_good(driver, point):
    later = second_of(driver, point, say(b"451 4.7.1 try later"))
    assert later == Deferred("451 4.7.1 try later", Fault.TRANSIENT)
    assert second_of(driver, point, say(b"550 5.1.1 no")) == Refused("550 5.1.1 no")


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
@pytest.mark.parametrize("point", ["body", *IN_ONE])
def test_s4_a_chunk_is_in_doubt_once_its_last_byte_is_out(driver, point, act):
    if point != "body":
        assert isinstance(second_of(driver, point, act), Unclear)
        return
    big = mail(2, body=(b"x" * 78 + b"\r\n") * 500_000)
    assert isinstance(second_of(driver, point, after(100_000, act), big), Deferred)


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
def test_s5_a_refusal_within_a_chunk_counts_though_the_line_breaks(driver, act):
    refusal = after(100_000, then(say(b"552 5.3.4 too much"), act))
    big = mail(2, body=(b"x" * 78 + b"\r\n") * 400_000)
    assert second_of(driver, "body", refusal, big) == Refused("552 5.3.4 too much")


@pytest.mark.parametrize("point", IN_ONE)
def test_s6_a_server_that_is_silent_over_a_chunk_is_given_up_in_time(driver, point):
    start = monotonic()
    assert isinstance(second_of(driver, point, stall, timeouts=SHORT), Unclear)
    assert LIMIT <= monotonic() - start < BOUND


@pytest.mark.parametrize("point", IN_ONE)
@pytest.mark.parametrize("said", RUBBISH.values(), ids=RUBBISH)
def test_s8_what_is_no_reply_leaves_a_chunk_in_doubt(driver, point, said):
    assert isinstance(second_of(driver, point, raw(said)), Unclear)
    assert len(driver.pool) == 0


# --- T1 to T3: privacy ---


@pytest.mark.parametrize(
    "script",
    [
        {"EHLO": say(b"250 no starttls here")},
        {"STARTTLS": say(b"454 4.7.0 not available")},
        {"STARTTLS": say(b"502 5.5.1 unknown")},
        {"EHLO": say(b"502 5.5.1 unknown")},
    ],
    ids=["stripped", "454", "502", "EHLO refused"],
)
def test_t1_without_privacy_nothing_is_said_that_needs_it(driver, script):
    with Hostile(script, tls=certificates.server_context(), auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, **LOGIN)
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert not {"AUTH", "MAIL"} & set(server.verbs())


def test_t2_what_was_slipped_in_before_the_handshake_is_never_believed(driver):
    slipped = raw(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    script = {"STARTTLS": then(slipped, lambda session: session.shake())}
    with Hostile(script, tls=certificates.server_context(), auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, **LOGIN)
    assert isinstance(outcome, Deferred)
    assert not {"AUTH", "MAIL"} & set(server.verbs())
    assert server.logins == []


def test_t2_what_the_server_offers_is_asked_again_in_private(driver):
    offers_in_the_open = then(raw(b"250-x\r\n250-AUTH CRAM-MD5\r\n250 STARTTLS\r\n"))
    script = {"EHLO": [offers_in_the_open]}
    with Hostile(script, tls=certificates.server_context(), auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, **LOGIN)
    assert isinstance(outcome, Accepted)
    assert server.verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "AUTH"]
    assert [mechanism for mechanism, _ in server.logins] == ["PLAIN"]


@pytest.mark.parametrize(
    "kind", ["expired", "of another name", "of a stranger", "with the name as CN only"]
)
@pytest.mark.parametrize("security", [Security.REQUIRED, Security.IMPLICIT], ids=str)
def test_t3_a_server_that_is_not_to_be_trusted_gets_nothing(driver, kind, security):
    context = certificates.server_context(kind)
    with Hostile(tls=context, implicit=security is Security.IMPLICIT, auth="PLAIN") as server:
        outcome = outcome_of(driver, server, security=security, tls=OURS, **LOGIN)
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "MAIL_TLS_CA_FILE" in outcome.text
    assert server.connections == 1
    assert not {"AUTH", "MAIL"} & set(server.verbs())


def test_t3_a_handshake_that_stalls_is_given_up_in_time(driver):
    script = {"STARTTLS": then(say(b"220 go"), stall)}
    with Hostile(script, tls=certificates.server_context()) as server:
        start = monotonic()
        outcome = outcome_of(driver, server, security=Security.REQUIRED, tls=OURS, timeouts=SHORT)
        assert LIMIT <= monotonic() - start < BOUND
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
