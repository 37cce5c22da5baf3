"""What a broken, slow, rude or unsound server does to a line; in both drivers."""

import asyncio
import socket
import threading
from time import monotonic

import pytest

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Close, Open, Opened, Read, Report, SmtpReply, Token, Write
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.wire import aio
from hostile import Hostile, after, dribble, flood, hang_up, later, raw, reset, say, stall, then
from wire_drivers import SECONDS, Asyncio, Tried

LIMIT = 0.2  # seconds: small, so that it is seen to fire
BOUND = 2.0  # and a bound ten times larger, for the machine's own slowness
MEGABYTES = b"x" * 78 + b"\r\n"
EACH = Submission(sender="a@b.example", recipients=(), content=b"", message_id="<1@x>", date=0.0)


def body(size):
    return MEGABYTES * (size // len(MEGABYTES))


def test_a_polite_dialogue_is_carried_and_its_line_closed(driver):
    tried = Tried()
    with Hostile() as server:
        driver.carry(tried.talk(server.port, [b"EHLO x\r\n", b"QUIT\r\n", Close()]))
    assert tried.codes == [220, 250, 221]
    assert tried.error is None
    assert tried.local_ip == "127.0.0.1"
    assert server.heard == [b"EHLO x", b"QUIT"]


def test_blocks_go_out_as_one_and_replies_come_in_order(driver):
    tried = Tried()
    group = [b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n"]
    steps = [Write(group, 5.0, 3), Read(5.0), Read(5.0), Read(5.0), b"hi\r\n.\r\n"]
    with Hostile() as server:
        driver.carry(tried.talk(server.port, steps))
    assert tried.codes == [220, 250, 250, 354, 250]
    assert server.accepted[0].content == b"hi\r\n"


def test_ten_megabytes_arrive_whole(driver):
    tried = Tried()
    content = body(10_000_000)
    steps = [b"DATA\r\n", Write([content[:1000], content[1000:], b".\r\n"], 9.0), Read(9.0)]
    with Hostile() as server:
        driver.carry(tried.talk(server.port, steps))
    assert tried.codes == [220, 354, 250]
    assert server.accepted[0].content == content


def test_nobody_at_the_port_is_a_wire_error_that_names_it(driver):
    tried = Tried()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        driver.carry(tried.talk(port))
    assert f"localhost:{port}: no connection" in str(tried.error)
    assert tried.error.sent == 0


def test_a_name_that_nobody_has_is_a_wire_error(driver):
    tried = Tried()

    def conversation():
        try:
            yield Open("no-such-host.invalid", 25, 5.0)
        except WireError as error:
            tried.error = error

    driver.carry(conversation())
    assert "no-such-host.invalid:25: the host name could not be looked up" in str(tried.error)


@pytest.mark.parametrize("host", ["", "a" * 64 + ".example", "a..b"])
def test_what_is_no_host_name_is_a_wire_error(driver, host):
    tried = Tried()

    def conversation():
        try:
            yield Open(host, 1, 1.0)
        except WireError as error:
            tried.error = error

    driver.carry(conversation())
    assert tried.error


def test_every_address_of_a_host_is_tried(driver, monkeypatch):
    tried = Tried()
    real = socket.getaddrinfo

    def two(host, port, *args, **kwargs):
        dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 1))
        odd = (socket.AF_UNIX, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))
        return [dead, odd, *real("127.0.0.1", port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", two)
    with Hostile() as server:
        driver.carry(tried.talk(server.port, [b"QUIT\r\n"]))
    assert tried.codes == [220, 221]


def test_a_question_without_a_line_is_a_wire_error(driver):
    tried = Tried()

    def conversation():
        try:
            yield Write([b"x"], 1.0)
        except WireError as error:
            tried.error = error

    driver.carry(conversation())
    assert "no line is open" in str(tried.error)


def test_a_conversation_that_does_not_mind_a_broken_line_ends_in_the_error(driver):
    def conversation():
        yield Read(1.0)

    with pytest.raises(WireError):
        driver.carry(conversation())


# --- S4: RST and FIN at every state ---

AT = {
    "greet": [],
    "EHLO": [b"EHLO x\r\n"],
    "AUTH": [b"AUTH PLAIN AGEAYg==\r\n"],
    "MAIL": [b"MAIL FROM:<a@b.example>\r\n"],
    "RCPT": [b"RCPT TO:<a@b.example>\r\n"],
    "DATA": [b"DATA\r\n"],
    "dot": [b"DATA\r\n", b"hi\r\n.\r\n"],
    "QUIT": [b"QUIT\r\n"],
}


@pytest.mark.parametrize("point", AT)
@pytest.mark.parametrize(
    ("act", "said"), [(reset, "reset"), (hang_up, "closed")], ids=["RST", "FIN"]
)
def test_a_line_that_breaks_while_a_reply_is_awaited_says_so_and_all_was_sent(
    driver, point, act, said
):
    tried = Tried()
    with Hostile({point: act}) as server:
        driver.carry(tried.talk(server.port, AT[point]))
    expected = f"localhost:{server.port} {said} the connection while a reply was awaited"
    if point == "greet" and "no connection" in str(tried.error):
        expected = f"localhost:{server.port}: no connection (Connection reset by peer)"
    assert str(tried.error) == expected
    assert tried.error.sent == (len(AT[point][-1]) if AT[point] else 0)
    assert tried.error.reply is None


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
def test_a_line_that_breaks_within_the_body_says_how_far_it_got(driver, act):
    tried = Tried()
    content = body(40_000_000)
    with Hostile({"body": after(100_000, act)}, receive_buffer=65_536) as server:
        driver.carry(tried.talk(server.port, [b"DATA\r\n", Write([content, b".\r\n"], 9.0)]))
    if act is reset:  # after a FIN the hostile server reads on: that Write may just end
        assert "reset the connection when" in str(tried.error)
    else:
        assert "closed the connection when" in str(tried.error)
    assert 0 < tried.error.sent < len(content)


@pytest.mark.parametrize("act", [reset, hang_up], ids=["RST", "FIN"])
def test_what_the_server_said_before_it_left_within_the_body_is_not_lost(driver, act):
    tried = Tried()
    content = body(40_000_000)
    last_word = then(say(b"552 5.3.4 too much"), act)
    with Hostile({"body": after(100_000, last_word)}, receive_buffer=65_536) as server:
        driver.carry(tried.talk(server.port, [b"DATA\r\n", Write([content, b".\r\n"], 9.0)]))
    assert tried.error.reply == SmtpReply(552, ("5.3.4 too much",))
    assert tried.error.sent < len(content)


def test_an_early_answer_to_a_long_body_is_noticed_though_the_line_stands(driver):
    tried = Tried()
    content = body(40_000_000)
    # By then we stand still, since nobody reads.
    early = after(100_000, then(later(LIMIT, say(b"552 5.3.4 too much")), stall))
    start = monotonic()
    with Hostile({"body": early}, receive_buffer=65_536) as server:
        driver.carry(tried.talk(server.port, [b"DATA\r\n", Write([content, b".\r\n"], 60.0)]), 60.0)
        assert monotonic() - start < 20
    assert tried.error.reply == SmtpReply(552, ("5.3.4 too much",))
    assert "answered before it had heard all" in str(tried.error)


def test_replies_that_had_come_before_the_line_broke_can_still_be_read(driver):
    replies = []

    def conversation(port):
        yield Open("localhost", port, 5.0)
        replies.append((yield Read(5.0)))
        yield Write([b"NOOP\r\nNOOP\r\n"], 5.0, 2)
        try:
            yield Write([b"DATA\r\n", body(40_000_000), b".\r\n"], 5.0, 2)
        except WireError as error:
            replies.append(error.reply)
        replies.append((yield Read(5.0)))
        replies.append((yield Read(5.0)))
        try:
            yield Read(5.0)
        except WireError as error:
            replies.append(str(error))

    with Hostile({"DATA": then(say(b"452 full"), reset)}, receive_buffer=65_536) as server:
        driver.carry(conversation(server.port))
    assert replies[1] == SmtpReply(452, ("full",))
    assert [reply.code for reply in replies[2:4]] == [250, 250]


def test_more_replies_than_the_buffer_holds_wait_in_the_kernel_until_they_are_taken(driver):
    replies, many = [], 1000

    def conversation(port):
        yield Open("localhost", port, 5.0)
        yield Read(5.0)
        yield Write([b"NOOP\r\n"], 5.0, many)
        for _ in range(many):
            replies.append((yield Read(5.0)).code)  # noqa: PERF401  it yields
        yield Write([b"QUIT\r\n"], 5.0)
        replies.append((yield Read(5.0)).code)

    with Hostile({"NOOP": raw((b"250 " + b"x" * 150 + b"\r\n") * many)}) as server:
        driver.carry(conversation(server.port))
    assert replies == [250] * many + [221]


def test_what_nobody_takes_is_not_heard_beyond_the_buffer_and_not_lost():
    """The asyncio driver hears while others work; it stops at 64 kB, and goes on when asked."""
    driver, replies, many = Asyncio(), [], 1000
    said = threading.Event()

    def say_all(session):
        session.send((b"250 " + b"x" * 150 + b"\r\n") * many)
        said.set()

    def conversation(port):
        yield Open("localhost", port, 5.0)
        yield Read(5.0)
        yield Write([b"NOOP\r\n"], 5.0, many)
        yield Report(EACH, Receipt())
        for _ in range(many):
            replies.append((yield Read(5.0)).code)  # noqa: PERF401  it yields

    async def main(port):
        async for _ in aio.carry(conversation(port), driver.pool, seconds=SECONDS):
            await asyncio.to_thread(said.wait, SECONDS)
            for _turn in range(100):  # in which the loop hears what there is
                await asyncio.sleep(0)

    with Hostile({"NOOP": say_all}) as server:
        driver.runner.run(main(server.port))
    driver.close()
    assert replies == [250] * many


# --- S6, S7: the clock ---


@pytest.mark.parametrize(
    "act",
    [stall, dribble(b"250 slow but sure" * 100, 0.02), dribble(b"250-x\r\n" * 1000, 0.02)],
    ids=["silence", "one byte at a time", "one line at a time"],
)
@pytest.mark.parametrize("whose", ["question", "message"])
def test_a_limit_holds_however_the_server_dribbles(driver, act, whose):
    tried = Tried()
    question, message = (LIMIT, 60.0) if whose == "question" else (60.0, LIMIT)
    with Hostile({"NOOP": act}) as server:
        steps = [Write([b"NOOP\r\n"], 5.0), Read(question)]
        start = monotonic()
        driver.carry(tried.talk(server.port, steps), message)
        took = monotonic() - start
    assert "kept us waiting too long while a reply was awaited" in str(tried.error)
    assert LIMIT <= took < BOUND


@pytest.mark.parametrize("whose", ["question", "message"])
def test_a_limit_holds_when_the_server_stops_reading(driver, whose):
    tried = Tried()
    question, message = (LIMIT, 60.0) if whose == "question" else (60.0, LIMIT)
    content = body(40_000_000)
    with Hostile({"body": stall}, receive_buffer=65_536) as server:
        steps = [b"DATA\r\n", Write([content], question)]
        start = monotonic()
        driver.carry(tried.talk(server.port, steps), message)
        took = monotonic() - start
    assert "kept us waiting too long when" in str(tried.error)
    assert tried.error.sent < len(content)
    assert LIMIT <= took < BOUND


def test_a_limit_holds_while_connecting(driver):
    tried = Tried()
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # the backlog is full: the next SYN is dropped
        with socket.socket() as second:
            second.settimeout(0)
            second.connect_ex(full.getsockname())
            start = monotonic()
            driver.carry(tried.talk(full.getsockname()[1], seconds=LIMIT))
            took = monotonic() - start
    assert "no connection in time" in str(tried.error)
    assert took < BOUND


def test_the_limit_of_a_message_starts_again_with_each_report(driver):
    """Five messages of half a limit each are no breach of it."""
    pause = LIMIT
    done = []

    def conversation(port):
        yield Open("localhost", port, 5.0)
        yield Read(5.0)
        for _ in range(5):
            yield Write([b"NOOP\r\n"], 5.0)
            done.append((yield Read(5.0)))
            yield Report(EACH, Receipt())

    with Hostile({"NOOP": later(pause)}) as server:
        driver.carry(conversation(server.port), pause * 2.5)
    assert len(done) == 5


def test_the_limit_of_a_message_starts_with_the_connection(driver):
    """What a conversation does before is not the server's doing."""
    tried = Tried()

    def conversation(port):
        threading.Event().wait(LIMIT * 1.5)
        yield from tried.talk(port, [b"NOOP\r\n"])

    with Hostile() as server:
        driver.carry(conversation(server.port), LIMIT)
    assert tried.error is None
    assert tried.codes == [220, 250]


def test_after_the_clock_ran_out_nothing_more_is_written(driver):
    errors = []

    def conversation(port):
        yield Open("localhost", port, 5.0)
        yield Read(5.0)
        for question in (Read(LIMIT), Write([b"MAIL\r\n"], 5.0), Read(5.0)):
            try:
                yield question
            except WireError as error:
                errors.append(str(error))

    with Hostile() as server:
        driver.carry(conversation(server.port))
    assert len(errors) == 3
    assert server.heard == []


# --- S8, S9: rubbish and too much of it ---


@pytest.mark.parametrize(
    "said",
    [
        b"ok\r\n",
        b"25 ok\r\n",
        b"\r\n",
        b"250 ok\n",
        b"250-fine\r\n550 no\r\n",
        b"250 \xff\r\n",
        "\u0662\u0665\u0660 ok\r\n".encode(),
    ],
    ids=["no code", "two digits", "empty", "LF only", "mixed codes", "not UTF-8", "other digits"],
)
def test_what_is_no_reply_breaks_the_line(driver, said):
    tried = Tried()
    with Hostile({"NOOP": raw(said)}) as server:
        driver.carry(tried.talk(server.port, [b"NOOP\r\n", b"NOOP\r\n"]))
    assert "no SMTP reply" in str(tried.error)
    assert tried.error.sent == len(b"NOOP\r\n")
    assert server.heard == [b"NOOP"]


@pytest.mark.parametrize(
    "act",
    [raw(b"250 " + b"x" * 200_000), flood(b"250-more\r\n"), raw(b"250-X\r\n" * 10_000)],
    ids=["a 200 kB line", "endless lines", "10,000 capabilities"],
)
def test_what_is_too_much_breaks_the_line_at_once(driver, act):
    tried = Tried()
    with Hostile({"EHLO": act}) as server:
        start = monotonic()
        driver.carry(tried.talk(server.port, [b"EHLO x\r\n"], seconds=60.0), 60.0)
        assert monotonic() - start < 10
    assert "no SMTP reply" in str(tried.error)


def test_a_word_out_of_turn_breaks_the_line_before_anything_is_written(driver):
    tried = Tried()
    with Hostile({"NOOP": raw(b"250 ok\r\n250 and something else\r\n")}) as server:
        driver.carry(tried.talk(server.port, [b"NOOP\r\n", b"MAIL FROM:<>\r\n"]))
    assert "spoke out of turn before we wrote" in str(tried.error)
    assert tried.error.reply == SmtpReply(250, ("and something else",))
    assert tried.error.sent == 0
    assert server.heard == [b"NOOP"]


def test_a_goodbye_out_of_turn_is_handed_over_with_the_error(driver):
    tried = Tried()
    goodbye = then(raw(b"250 ok\r\n421 4.3.2 going down\r\n"), hang_up)
    with Hostile({"NOOP": goodbye}) as server:
        driver.carry(tried.talk(server.port, [b"NOOP\r\n", b"MAIL FROM:<>\r\n"]))
    assert tried.error.reply == SmtpReply(421, ("4.3.2 going down",))
    assert tried.error.sent == 0


def test_a_word_that_only_just_came_is_noticed_before_anything_is_written(driver):
    errors, now, said = [], threading.Event(), threading.Event()

    def say_more(session):
        session.send(b"250 ok\r\n")
        assert now.wait(SECONDS)
        session.send(b"421 4.3.2 going down\r\n")
        said.set()

    def conversation(port):
        yield Open("localhost", port, 5.0)
        yield Read(5.0)
        yield Write([b"NOOP\r\n"], 5.0)
        yield Read(5.0)
        now.set()
        assert said.wait(SECONDS)  # it stands in the kernel, and nobody has had the time to look
        try:
            yield Write([b"MAIL FROM:<>\r\n"], 5.0)
        except WireError as error:
            errors.append(error)

    with Hostile({"NOOP": say_more}) as server:
        driver.carry(conversation(server.port))
    assert [error.reply for error in errors] == [SmtpReply(421, ("4.3.2 going down",))]
    assert errors[0].sent == 0
    assert server.heard == [b"NOOP"]


# --- tokens, leaving, coming back ---


def test_a_token_source_is_asked_and_answered(driver):
    answers = []

    def conversation():
        answers.append((yield Token(lambda: "t0ken")))

    driver.carry(conversation())
    assert answers == ["t0ken"]


def test_a_token_source_that_fails_is_named_by_kind_and_its_text_kept_back(driver):
    errors = []

    def broken():
        raise LookupError("s3cret")

    def conversation():
        try:
            yield Token(broken)
        except WireError as error:
            errors.append(str(error))

    driver.carry(conversation())
    assert errors == ["the token source failed with LookupError"]


def test_who_takes_one_report_and_leaves_closes_the_line_and_the_conversation(driver):
    left = []

    def conversation(port):
        try:
            yield Open("localhost", port, 5.0)
            yield Read(5.0)
            yield Report(EACH, Receipt())
            yield Write([b"NOOP\r\n"], 5.0)
        finally:
            left.append(True)

    with Hostile() as server:
        report = driver.first(conversation(server.port))
        assert report.submission.message_id == "<1@x>"
        assert left == [True]
        assert len(driver.pool) == 0
    assert server.heard == []


def test_open_asked_a_second_time_begins_anew(driver):
    seen = []

    def conversation(port):
        for _ in range(2):
            opened = yield Open("localhost", port, 5.0)
            assert isinstance(opened, Opened)
            seen.append((yield Read(5.0)).code)

    with Hostile() as server:
        driver.carry(conversation(server.port))
        assert server.connections == 2
    assert seen == [220, 220]
