"""HTTP over a line: what comes back, what a break is told as, and when a line is used again."""

import os
import socket
import threading
from functools import partial

import pytest

from certificates import ca_file, server_context
from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.mail.exchange import HttpRequest, HttpResponse, Tls
from flask_outbox.wire.http import Answers, Exchange
from hostile import after, dribble, flood, hang_up, polite, raw, reset, stall, then
from hostile_http import HostileHttp, say

BODY = b'{"to":["ada@example.org"]}'
LARGE = b"x" * (8 << 20)  # more than the kernel takes while nobody reads
SOON = 0.3  # seconds until a limit that a test waits for


class Exchanged:
    """What came of some requests."""

    def __init__(self, driver, home, *, times=1, limit=10.0, **more):
        self.came: list[HttpResponse | WireError] = []
        self.request = HttpRequest(
            **{"url": f"{home}/mail?x=1", "body": BODY, "seconds": 10.0, **more}
        )
        driver.carry(self._ask(times), limit)

    def _ask(self, times):
        for _ in range(times):
            try:
                self.came.append((yield self.request))
            except WireError as error:
                self.came.append(error)

    @property
    def only(self):
        (came,) = self.came
        return came


def test_a_request_is_said_and_its_answer_read(driver):
    with HostileHttp() as server:
        answer = Exchanged(driver, server.home, headers={"X-Key": "k"}).only
    (asked,) = server.requests
    assert (asked.method, asked.path, asked.body) == ("POST", "/mail?x=1", BODY)
    assert asked.headers["x-key"] == "k"
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert asked.headers["user-agent"].startswith("flask-outbox/")
    assert asked.headers["accept-encoding"] == "identity"
    assert (answer.status, answer.text_at("id"), answer.sent_all) == (200, "ref-1", True)
    assert answer.header("Content-Type") == "application/json"


def test_a_line_is_used_again(driver):
    with HostileHttp() as server:
        exchanged = Exchanged(driver, server.home, times=5)
        Exchanged(driver, server.home)
        driver.rest()
    assert [answer.status for answer in exchanged.came] == [200] * 5
    assert server.connections == 1


@pytest.mark.parametrize(
    "answered",
    [
        say(200, b"x", connection="close"),
        raw(b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx"),
        then(raw(b"HTTP/1.1 200 OK\r\n\r\nx"), hang_up),
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 500 unasked\r\n"),
    ],
    ids=["close", "1.0", "to its end", "more than was asked"],
)
def test_a_line_that_is_of_no_more_use_is_not_used_again(driver, answered):
    with HostileHttp({"whole": [answered]}) as server:
        exchanged = Exchanged(driver, server.home, times=2)
        driver.rest()
    assert [answer.status for answer in exchanged.came] == [200, 200]
    assert exchanged.came[0].body == b"x"
    assert server.connections == 2


def test_a_line_that_was_closed_while_it_rested_is_not_a_failure(driver):
    closed = threading.Event()

    def close(session):
        session.sock.shutdown(socket.SHUT_WR)
        closed.set()

    with HostileHttp({"answered": [close]}) as server:
        first = Exchanged(driver, server.home)
        assert closed.wait(10)
        second = Exchanged(driver, server.home)
        driver.rest()
    assert [first.only.status, second.only.status] == [200, 200]
    assert server.connections == 2


def test_a_line_that_is_closed_after_a_last_look_at_it_is_not_a_failure(driver, monkeypatch):
    kept, closed = threading.Event(), threading.Event()

    def close(session):
        kept.wait(10)
        session.sock.shutdown(socket.SHUT_WR)
        closed.set()

    with HostileHttp({"answered": [close]}) as server:
        Exchanged(driver, server.home)
        kept.set()
        assert closed.wait(10)
        # The last look at it, had it come a moment earlier.
        monkeypatch.setattr("flask_outbox.wire.smtp_line.Line.is_alive", lambda _: True)
        assert Exchanged(driver, server.home).only.status == 200
        monkeypatch.undo()
        driver.rest()
    assert server.connections == 2


def test_a_request_that_went_out_over_a_kept_line_is_not_repeated(driver):
    with HostileHttp({"whole": [polite, reset]}) as server:
        first, second = Exchanged(driver, server.home, times=2).came
        driver.rest()
    assert first.status == 200
    assert second.sent == len(BODY)
    assert len(server.requests) == 2


def test_a_line_that_speaks_out_of_turn_is_of_no_more_use():
    answers = Answers()
    answers.feed(b"HTTP/1.1 408 too late\r\n\r\n")
    assert answers.out_of_turn
    assert not answers.at_rest


def test_a_line_of_smtp_is_never_taken_for_one():
    assert Exchange(HttpRequest(url="http://h")).opening.account


def test_chunks_and_words_that_precede_an_answer_are_understood(driver):
    said = (
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: "
        b"chunked\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"
    )
    with HostileHttp({"whole": raw(said)}) as server:
        exchanged = Exchanged(driver, server.home, times=2)
        driver.rest()
    assert [answer.body for answer in exchanged.came] == [b"abc", b"abc"]
    assert exchanged.came[0].header("set-cookie") == "a, b"
    assert server.connections == 1
    assert "cookie" not in server.requests[1].headers


def test_a_redirect_is_an_answer(driver):
    with HostileHttp({"whole": [say(302, location="/elsewhere")]}) as server:
        assert Exchanged(driver, server.home).only.status == 302
        driver.rest()
    assert len(server.requests) == 1


def test_no_proxy_of_the_environment_is_asked(driver, monkeypatch):
    with HostileHttp() as server, HostileHttp() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.home)
        assert Exchanged(driver, server.home).only.status == 200
        driver.rest()
    assert proxy.connections == 0


# --- breaks ---


def test_nobody_there_is_told_with_nothing_sent(driver):
    with HostileHttp() as server:
        home = server.home
    error = Exchanged(driver, home).only
    assert isinstance(error, WireError)
    assert error.sent == 0


@pytest.mark.parametrize(
    ("script", "body", "sends"),
    [
        ({"accept": reset}, LARGE, "not all"),
        ({"head": reset}, LARGE, "not all"),
        ({"body": after(1_000_000, reset)}, LARGE, "not all"),
        ({"whole": reset}, BODY, "all"),
        ({"whole": hang_up}, BODY, "all"),
        ({"whole": then(raw(b"HTTP/1.1 20"), reset)}, BODY, "all"),
        ({"whole": then(raw(b"HTTP/1.1 200 OK\r\ncontent-le"), hang_up)}, BODY, "all"),
        ({"whole": raw(b"220 smtp.example.com ESMTP\r\n")}, BODY, "all"),
        ({"whole": raw(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000)}, BODY, "all"),
    ],
    ids=[
        *("at accept", "after the head", "in the body", "after the body", "closed after the body"),
        *("in the status", "in the header", "no HTTP", "a header without end"),
    ],
)
def test_a_break_tells_whether_the_body_was_out(driver, script, body, sends):
    with HostileHttp(script, receive_buffer=65_536) as server:
        error = Exchanged(driver, server.home, body=body, seconds=1.0).only
    assert isinstance(error, WireError)
    assert (error.sent == len(body)) == (sends == "all")
    assert error.sent <= len(body)


@pytest.mark.parametrize(
    ("script", "body", "sends"),
    [
        ({"accept": stall}, LARGE, "not all"),
        ({"whole": stall}, BODY, "all"),
        ({"whole": dribble(b"HTTP/1.1 200 OK\r\n", every=0.02)}, BODY, "all"),
    ],
    ids=["it does not read", "it does not answer", "it dribbles"],
)
@pytest.mark.parametrize("which", ["seconds", "limit"])
def test_a_limit_holds_for_the_whole_of_it(driver, script, body, sends, which):
    with HostileHttp(script, receive_buffer=65_536) as server:
        error = Exchanged(driver, server.home, body=body, **{which: SOON}).only
    assert isinstance(error, WireError)
    assert "too long" in str(error)
    assert (error.sent == len(body)) == (sends == "all")


@pytest.mark.timeout(10)  # a handshake that never ends has a limit of its own, of 20 s
@pytest.mark.parametrize("which", ["seconds", "limit"])
def test_a_limit_holds_for_the_handshake_too(driver, which):
    with HostileHttp({"accept": stall}, tls=server_context()) as server:
        error = Exchanged(driver, server.home, **{which: SOON}, tls=Tls(ca_file=ca_file())).only
    assert isinstance(error, TlsError)
    assert error.sent == 0


def test_answers_that_are_never_final_come_to_an_end(driver):
    with HostileHttp({"whole": flood(b"HTTP/1.1 100 Continue\r\n\r\n")}) as server:
        error = Exchanged(driver, server.home).only
    assert "never came to a final answer" in str(error)


def test_what_is_said_before_the_body_was_out_is_heard(driver):
    early = then(say(413, {"message": "too large"}), hang_up)
    with HostileHttp({"head": early}, receive_buffer=65_536) as server:
        answer = Exchanged(driver, server.home, body=LARGE).only
    assert (answer.status, answer.sent_all) == (413, False)


# --- an answer whose body is no good ---


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (then(raw(b"HTTP/1.1 202 OK\r\ncontent-length: 9\r\n\r\nabc"), hang_up), b"abc"),
        (then(raw(b"HTTP/1.1 202 OK\r\ncontent-length: 9\r\n\r\nabc"), reset), None),
        (
            raw(b"HTTP/1.1 202 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nno\r\n"),
            b"abc",
        ),
        (then(raw(b"HTTP/1.1 202 OK\r\ncontent-length: 9\r\n\r\nabc"), stall), b"abc"),
    ],
    ids=["cut off", "reset", "a chunk that is none", "stalled"],
)
def test_a_status_stands_whatever_becomes_of_the_body(driver, said, body):
    with HostileHttp({"whole": [said]}) as server:
        exchanged = Exchanged(driver, server.home, seconds=1.0, times=2)
        driver.rest()
    assert [answer.status for answer in exchanged.came] == [202, 200]
    assert len(exchanged.came[0].body) <= 1 << 20
    assert body is None or exchanged.came[0].body == body
    assert server.connections == 2


@pytest.mark.timeout(20)  # what is not cut is read for a minute
@pytest.mark.parametrize("field", ["content-length: 500000000", "x: without end"])
def test_a_body_is_cut_at_a_mebibyte_and_not_waited_for(driver, field):
    said = then(raw(f"HTTP/1.1 202 OK\r\n{field}\r\n\r\n".encode()), flood(b"y" * 65_536))
    with HostileHttp({"whole": said}) as server:
        answer = Exchanged(driver, server.home, seconds=60.0, limit=60.0).only
    assert (answer.status, len(answer.body)) == (202, 1 << 20)


# --- privacy ---


def test_https_is_verified(driver):
    with HostileHttp(tls=server_context()) as server:
        assert Exchanged(driver, server.home, tls=Tls(ca_file=ca_file())).only.status == 200
        assert isinstance(Exchanged(driver, server.home).only, TlsError)
        driver.rest()
    with HostileHttp(tls=server_context("of another name")) as server:
        assert isinstance(Exchanged(driver, server.home, tls=Tls(ca_file=ca_file())).only, TlsError)
    assert server.requests == []


def test_a_break_over_tls_tells_the_same(driver):
    exchanged = partial(Exchanged, driver, tls=Tls(ca_file=ca_file()))
    with HostileHttp({"whole": reset}, tls=server_context()) as server:
        assert exchanged(server.home).only.sent == len(BODY)
    script = {"body": after(100_000, reset)}
    with HostileHttp(script, tls=server_context(), receive_buffer=65_536) as server:
        assert exchanged(server.home, body=LARGE).only.sent < len(LARGE)


def test_a_child_uses_no_line_of_its_parent(driver):
    with HostileHttp() as server:
        assert Exchanged(driver, server.home).only.status == 200
        if driver.name == "blocking":
            child = os.fork()
            if not child:
                came = Exchanged(driver, server.home).only
                os._exit(0 if came.status == 200 else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert server.connections == 2
            assert Exchanged(driver, server.home).only.status == 200
            assert server.connections == 2
        driver.rest()


# --- what is said of it ---


def test_what_cannot_stand_in_a_header_is_not_sent_and_not_told(driver):
    with HostileHttp() as server:
        error = Exchanged(driver, server.home, headers={"X-Key": "s3cret\r\nX: y"}).only
    assert isinstance(error, WireError)
    assert error.sent == 0
    assert "s3cret" not in repr(error) + repr(error.__cause__)
    assert server.requests == []


def test_no_repr_shows_what_it_holds():
    request = HttpRequest.json(
        "https://h/x?key=s3cret", headers={"a": "s3cret"}, body={"b": "s3cret"}
    )
    response = HttpResponse(status=200, headers={"a": "s3cret"}, body=b"s3cret")
    assert repr(request) == "HttpRequest(POST https://h/x, 14 octets)"
    assert repr(response) == "HttpResponse(200, 6 octets)"
