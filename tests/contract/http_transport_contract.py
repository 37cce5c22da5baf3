"""What every API must do, besides what every transport must; over a real server of ours.

::

    class TestMine(HttpTransportContract):
        recorded = FIXTURES / "mine"

        def at(self, home, **more):
            return Mine("s3cret-key", home, **more)

``recorded`` has two folders, whose files lie beside the provider's documentation: each names the
page that it was read from, and when.

``requests``  a mail of ``http_mails`` (or of ``mails``), and the whole request that says it
``answers``   an answer, and the outcome for each recipient of the mail ``rich``
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from certificates import ca_file, server_context
from contract.http_mails import ADA, BOB, EVE, HEX, HID, MAILS, ROW, UNSUPPORTED, rich, sealed
from contract.transport_contract import TransportContract
from flask_outbox.mail.errors import ConfigurationError, UnsupportedFeature, WireError
from flask_outbox.mail.exchange import Close, HttpRequest, HttpResponse, Tls
from flask_outbox.mail.message import Message
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused, Unclear
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import HttpTransport
from hostile import BOUND, after, dribble, flood, hang_up, polite, raw, reset, stall, take, then
from hostile_http import Asked, HostileHttp, say
from wire_drivers import DRIVERS

KEY = "s3cret-key"
SOON = 0.5  # seconds until a limit that a test waits for
WAITS = frozenset({"stalled", "it does not read", "silent", "dribbled"})  # those that do


def letter(outcome: Any) -> str:
    """Write an outcome as a letter: Accepted, Refused, Unclear; Deferred by its fault."""
    if isinstance(outcome, Deferred):
        return {Fault.TRANSIENT: "T", Fault.OURS: "O", Fault.NONE: "N"}[outcome.fault]
    return type(outcome).__name__[0]


STATUSES = {
    **dict.fromkeys((200, 201, 202, 204, 206), "A"),
    **dict.fromkeys((400, 413, 414, 422, 431), "R"),
    **dict.fromkeys((408, 409, 500, 501, 502, 504, 507, 520, 599), "U"),
    **dict.fromkeys((429, 503), "O"),
    **dict.fromkeys((300, 301, 302, 304, 307, 308), "O"),
    **dict.fromkeys((401, 402, 403, 404, 405, 406, 410, 415, 421, 425, 426, 451), "O"),
}
DATE = "Sun, 29 Nov 2026 06:00:00 GMT"
RETRY_AFTER = {
    "5": 5.0,
    "0": 1.0,
    "-1": 1.0,
    "1e9": 3600.0,
    "nan": 1.0,
    "Sun, 29 Nov 2026 06:01:30 GMT": 90.0,
    "Sunday, 29-Nov-26 06:01:30 GMT": 90.0,
    "Sun, 29 Nov 2020 06:00:00 GMT": 1.0,
    "Sun, 29 Nov 2099 06:00:00 GMT": 3600.0,
    "abc": None,
    "Sun, 99 Nov 2026": None,
    "": None,
}
JUNK = {
    "empty": b"",
    "half of it": b'{"id": "4',
    "a page": b"<!doctype html><title>hello</title>",
    "other types": b'{"id": ["4"], "MessageID": {}, "ErrorCode": [1], "Message": 7, "message": {}}',
    "a list": b'[{"id": "4"}]',
    "a number": b"7",
    "null": b"null",
    "no id": b'{"ok": true}',
    "no UTF-8": b'{"id": "\xff"}',
    "nested": b"[" * 100_000,
    "control characters": b'{"id": "a\\r\\nb", "MessageID": "a\\r\\nb"}',
    "long": b'{"id": "%s", "MessageID": "%s"}' % (b"x" * 9999, b"x" * 9999),
}
UNFINISHED = {
    "cut off": then(raw(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"id"'), hang_up),
    "reset": then(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"), reset),
    "stalled": then(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"), stall),
    "no chunk": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    "50 MB": then(
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n"), flood(b" " * 65_536)
    ),
}
BEFORE_THE_BODY = {
    "at accept": {"accept": reset},
    "after the head": {"head": reset},
    "in the body": {"body": after(300_000, reset)},
    "it does not read": {"head": stall},
}
# What becomes of hidden recipients, each with a request of its own, where the second meets this:
# who is turned away asks for nothing more, and what is about one recipient is about no other.
MET_BY_THE_SECOND = {
    **dict.fromkeys((401, 404, 429, 503), "AOOO"),
    **dict.fromkeys((400, 422), "ARAA"),
    **dict.fromkeys((409, 500), "AUAA"),
}
BROKEN_AT_THE_SECOND = {0: "AOOO", 1: "ATAA", 1_000_000: "AUAA"}  # by octets that had gone out
AFTER_THE_BODY = {
    "reset": {"whole": then(take, reset)},
    "closed": {"whole": then(take, hang_up)},
    "silent": {"whole": then(take, stall)},
    "dribbled": {"whole": then(take, dribble(b"HTTP/1.1 200 OK\r\n" * 9, every=0.02))},
    "half a header": {"whole": then(take, raw(b"HTTP/1.1 200 OK\r\nconte"), reset)},
    "no HTTP": {"whole": then(take, raw(b"220 hello\r\n\r\n"))},
}


class HttpTransportContract(TransportContract):
    """The suite."""

    recorded: Path
    mails: ClassVar[Mapping[str, Callable[[], Submission]]] = {}
    unsupported: ClassVar[Mapping[str, Callable[[], Submission]]] = {}
    largest: ClassVar[int | None] = None  # octets of a sealed mail that the provider takes
    secrets = (KEY,)

    def at(self, home: str, **more: Any) -> HttpTransport:
        """Make it, with ``KEY`` for a key; it may be given ``tls``."""
        raise NotImplementedError

    def with_key(self, key: str) -> HttpTransport:
        """Make it with another key."""
        return type(self.at("https://h"))(key)

    def read(self, asked: Asked) -> Any:
        """Give a request's body as the records have it."""
        return asked.json()

    @pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name, autouse=True)
    def driver(self, request):
        self._driver = request.param()
        yield self._driver
        self._driver.close()

    @pytest.fixture
    def server(self, driver):
        with HostileHttp() as server:
            yield server
            driver.rest()

    @pytest.fixture
    def transport(self, server):
        return self.at(server.home)

    @pytest.fixture
    def broken(self):
        with HostileHttp() as server:
            home = server.home
        return self.at(home)

    def carry(self, conversation):
        return self._driver.carry(conversation)

    def sent(
        self,
        script: Any,
        submission: Submission | None = None,
        *,
        seconds: float = BOUND,
        **more: Any,
    ) -> list[Any]:
        """Send a mail to a server of this script; give the outcomes."""
        with HostileHttp(script, **more) as server:
            transport = self.at(server.home)
            transport.seconds = seconds
            (report,) = self.carry(transport.send([submission or sealed(rich(), ADA)]))
            self._driver.rest()
        self.server = server
        return list(report.receipt.values())

    # --- what is said ---

    def files(self, kind: str) -> list[tuple[Path, Any]]:
        found = sorted((self.recorded / kind).glob("*.json"))
        assert found
        return [(path, json.loads(path.read_text(encoding="utf-8"))) for path in found]

    def test_each_mail_is_said_as_the_documentation_says(self, server, transport):
        whole = {**MAILS, **self.mails}
        said: dict[str, Any] = {}
        for path, record in self.files("requests"):
            assert record["page"].startswith("https://"), path
            assert record["read"].startswith("20"), path
            server.requests.clear()
            self.carry(transport.send([whole[record["mail"]]()]))
            said[record["mail"]] = record
            (asked,) = server.requests
            assert (asked.method, asked.path) == (record["method"], record["path"]), path
            for name, value in record["headers"].items():
                assert asked.headers[name] == value.replace("KEY", KEY), (path, name)
            assert self.read(asked) == record["body"], path
        assert said.keys() == whole.keys(), "each mail has a recorded request"

    def test_each_answer_is_read_as_the_documentation_says(self):
        for path, record in self.files("answers"):
            assert record["page"].startswith("https://"), path
            answer = say(record["status"], record["body"], **record.get("headers", {}))
            outcomes = self.sent({"whole": answer}, sealed(rich()))
            assert "".join(map(letter, outcomes)) == record["outcomes"], path
            references = {each.reference for each in outcomes if isinstance(each, Accepted)}
            assert references == ({record["reference"]} if "reference" in record else set()), path
            for word in record.get("told", ()):
                assert word in repr(outcomes), path

    def test_a_mail_is_one_request_and_all_go_over_one_line(self, server, transport):
        self.carry(transport.send([sealed(rich()), sealed(rich())]))
        assert (len(server.requests), server.connections) == (2, 1)

    def test_our_row_goes_along(self, server, transport):
        self.carry(transport.send([sealed(rich())]))
        assert ROW in server.requests[0].body.decode()

    def test_who_has_a_copy_is_not_named_again(self, server, transport):
        self.carry(transport.send([sealed(rich(), BOB, HEX)]))
        said = server.requests[0].body.decode()
        if not transport.carries.raw:
            assert [each for each in (ADA, BOB, EVE, HID, HEX) if each in said] == [BOB, HEX]

    def test_hidden_recipients_do_not_see_one_another(self, server, transport):
        reports = self.carry(transport.send([sealed(rich(), HID, HEX)]))
        if not transport.carries.raw:
            bodies = [asked.body.decode() for asked in server.requests]
            assert [(HID in body, HEX in body) for body in bodies] == [(1, 0), (0, 1)]
        assert [list(report.receipt) for report in reports] == [[HID, HEX]]

    @pytest.mark.parametrize(("status", "means"), MET_BY_THE_SECOND.items())
    def test_once_it_turns_us_away_the_rest_of_a_mail_is_not_asked_for(self, status, means):
        outcomes = self.sent({"whole": [polite, say(status, retry_after="30")]}, several_hidden())
        if self.at("https://h").carries.raw:
            assert len(self.server.requests) == 1
            return
        assert "".join(map(letter, outcomes)) == means
        assert len(self.server.requests) == asked_for(means)
        if "O" in means:
            assert {each.retry_after for each in outcomes[1:]} == {30.0}

    @pytest.mark.parametrize(("gone", "means"), BROKEN_AT_THE_SECOND.items())
    def test_by_a_line_that_cannot_be_used_the_rest_is_not_asked_for(self, gone, means, transport):
        conversation = transport.send([several_hidden()])
        heard, asked = next(conversation), 0
        while isinstance(heard, HttpRequest):
            asked += 1
            if asked == 2:
                heard = conversation.throw(WireError("broken", sent=gone))
            else:
                heard = conversation.send(HttpResponse(status=200))
        if not transport.carries.raw:
            assert "".join(map(letter, heard.receipt.values())) == means
            assert asked == asked_for(means)

    def test_a_repeat_is_the_same_request(self, server, transport):
        for _ in range(2):
            self.carry(transport.send([sealed(rich())]))
        first, second = server.requests
        assert first == second

    def test_its_limits_go_along(self, transport):
        transport.seconds, transport.connect = 7.0, 3.0
        conversation = transport.send([sealed(rich())])
        question = next(conversation)
        conversation.close()
        request = getattr(question, "request", question)  # within what signs it
        assert (request.seconds, request.connect) == (7.0, 3.0)

    # --- what cannot be said ---

    def test_what_it_cannot_carry_is_refused_by_name_early_and_late(self, server, transport):
        for what, make in {**UNSUPPORTED, **self.unsupported}.items():
            submission = make()
            if transport.carries.raw and what not in self.unsupported:
                continue
            with pytest.raises(UnsupportedFeature) as error:
                transport.check(submission)
            (report,) = self.carry(transport.send([submission]))
            for text in (str(error.value), *(each.text for each in report.receipt.values())):
                assert transport.name in text, what
                assert what in text, what
            assert set(map(type, report.receipt.values())) == {Refused}
        assert server.requests == []

    def test_what_it_declares_is_enough_for_each_mail(self, transport):
        for make in {**MAILS, **self.mails}.values():
            transport.check(make())

    def test_to_know_that_it_carries_a_mail_takes_no_request(self, transport, monkeypatch):
        if transport.at_a_glance:
            monkeypatch.setattr(type(transport), "request", None)
        transport.check(sealed(rich()))

    def test_what_is_larger_than_it_takes_is_refused(self, server, transport):
        assert transport.carries.size == self.largest
        if self.largest is not None:
            content = sealed(rich()).content + b"x" * self.largest
            with pytest.raises(UnsupportedFeature, match="octets"):
                transport.check(sealed(rich(), ADA, content=content))

    # --- what is answered ---

    @pytest.mark.parametrize(("status", "means"), STATUSES.items())
    def test_a_status_means_the_same_everywhere(self, status, means):
        (outcome,) = self.sent({"whole": say(status)})
        assert letter(outcome) == means
        assert str(status) in outcome.text

    @pytest.mark.parametrize("status", [200, 500, 503, 413, 401])
    def test_what_is_answered_before_the_body_was_out(self, status):
        early = {"head": then(say(status), hang_up)}
        (outcome,) = self.sent(early, large(), receive_buffer=65_536)
        assert letter(outcome) == {200: "U", 500: "T", 503: "O", 413: "R", 401: "O"}[status]

    def test_what_is_too_large_is_said_so(self):
        (outcome,) = self.sent({"whole": say(413)})
        assert "too large" in outcome.text

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(("said", "wait"), RETRY_AFTER.items())
    def test_retry_after_is_believed_within_reason(self, status, said, wait):
        fields = {"retry_after": said, "date": DATE} if said else {"date": DATE}
        (outcome,) = self.sent({"whole": say(status, **fields)})
        assert (letter(outcome), outcome.retry_after) == ("O", wait)

    def test_a_date_without_the_far_sides_own_says_nothing(self):
        at = "Sun, 29 Nov 2026 06:01:30 GMT"
        (outcome,) = self.sent({"whole": say(503, retry_after=at)})
        assert outcome.retry_after is None

    @pytest.mark.parametrize("body", JUNK.values(), ids=JUNK)
    def test_acceptance_is_acceptance_whatever_the_body_says(self, body):
        (outcome,) = self.sent({"whole": say(200, body)})
        assert isinstance(outcome, Accepted)
        assert outcome.reference == ""

    @pytest.mark.parametrize("body", JUNK.values(), ids=JUNK)
    def test_a_refusal_is_one_whatever_the_body_says(self, body):
        (outcome,) = self.sent({"whole": say(422, body)})
        assert letter(outcome) == "R"

    @pytest.mark.parametrize("name", UNFINISHED)
    def test_acceptance_is_acceptance_though_the_body_never_ends(self, name):
        (outcome,) = self.sent({"whole": UNFINISHED[name]}, seconds=limit(name))
        assert isinstance(outcome, Accepted)
        assert outcome.reference == ""

    # --- what breaks ---

    @pytest.mark.parametrize("name", BEFORE_THE_BODY)
    def test_a_break_before_the_body_is_out_is_no_doubt(self, name):
        script, seconds = BEFORE_THE_BODY[name], limit(name)
        (outcome,) = self.sent(script, large(), seconds=seconds, receive_buffer=65_536)
        assert isinstance(outcome, Deferred)
        assert self.server.accepted == []

    @pytest.mark.parametrize("name", AFTER_THE_BODY)
    def test_a_break_after_the_body_is_out_is_unclear(self, name):
        (outcome,) = self.sent(AFTER_THE_BODY[name], seconds=limit(name))
        assert isinstance(outcome, Unclear)
        assert len(self.server.requests) == 1, "nothing is repeated by itself"

    def test_a_mail_in_doubt_and_sent_again_is_one_copy_where_it_says_so(self, driver):
        with HostileHttp({"whole": [then(take, reset)]}, keys=True) as server:
            transport = self.at(server.home)
            for _ in range(2):
                self.carry(transport.send([sealed(rich(), ADA)]))
            driver.rest()
        assert len(server.accepted) == (1 if transport.carries.idempotency else 2)
        assert len(server.requests) == 2

    def test_whom_it_trusts_may_be_named(self, driver):
        outcomes: list[Any] = []
        with HostileHttp(tls=server_context()) as server:
            for more in ({}, {"tls": Tls(ca_file=ca_file())}):
                transport = self.at(server.home, **more)
                (report,) = self.carry(transport.send([sealed(rich(), ADA)]))
                outcomes += report.receipt.values()
            driver.rest()
        assert "".join(map(letter, outcomes)) == "OA"
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        ("home", "where"),
        [
            ("https://api.example.com/x", ("api.example.com", 443, True)),
            ("http://localhost", ("localhost", 80, False)),
            ("http://[::1]:8025", ("::1", 8025, False)),
        ],
    )
    def test_to_knock_is_to_connect_and_no_more(self, home, where):
        transport = self.at(home, tls=Tls(ca_file="ours"))
        knock = transport.knock()
        opened = next(knock)
        assert (opened.host, opened.port, opened.tls == transport.tls) == where
        assert opened.seconds == transport.connect
        assert isinstance(knock.send(None), Close)
        assert list(knock) == []

    # --- secrets ---

    def test_what_the_far_side_repeats_of_a_secret_is_not_told(self):
        for status in (200, 400, 401, 422, 500):
            words = f"{KEY} is not good, \r\n\x1b {KEY}"
            said = {"message": words}
            body = {**said, "Message": words, "ErrorCode": 300, "errors": [said]}
            outcomes = self.sent({"whole": say(status, body)})
            assert KEY not in repr(outcomes)
            assert "\\r" not in repr(outcomes)

    def test_of_an_answer_to_a_sensitive_mail_the_status_is_told(self):
        said = {"message": "no hello"}
        body = {**said, "Message": "no hello", "ErrorCode": 300, "errors": [said]}
        secretive = sealed(rich(), ADA, sensitive=True)
        (outcome,) = self.sent({"whole": say(422, body)}, secretive)
        assert "hello" not in repr(outcome)
        (outcome,) = self.sent({"whole": say(422, body)})
        assert "hello" in repr(outcome) or not self.at("https://h").says

    def test_a_key_that_cannot_stand_in_a_header_is_refused_and_not_shown(self):
        for key in ("", "s3cret key", "s3cret\r\nX: y", "s3crét"):
            with pytest.raises(ConfigurationError) as error:
                self.with_key(key)
            assert "s3cr" not in str(error.value)

    @pytest.mark.parametrize(
        "home",
        [
            *("http://api.example.com", "ftp://h", "https://", "//h", "https://u@h", "https://h?x"),
            *("https://h#x", "https://h\r\n", "https://h/a b", "http://localhost.example.com", ""),
            *("http://127.0.0.1.example.com", "http://169.254.169.254", "https://h:x"),
        ],
    )
    def test_a_home_is_https_unless_it_is_this_machine(self, home):
        with pytest.raises(ConfigurationError, match="home="):
            self.at(home)

    @pytest.mark.parametrize(
        "home",
        ["https://api.example.com/eu", "http://localhost:1", "http://[::1]:1/x", "https://h/"],
    )
    def test_another_home_is_taken(self, home):
        assert self.at(home).home == home.rstrip("/")


def limit(name: str) -> float:
    """Give the seconds for a request: few, where nothing else ends it."""
    return SOON if name in WAITS else BOUND


def several_hidden() -> Submission:
    """One to four people who are not to see one another."""
    return sealed(Message("hi", bcc=[BOB, EVE, HID, HEX], body="x", sender="shop@example.com"))


def asked_for(means: str) -> int:
    """Count the requests of a mail to hidden recipients that came to this."""
    return means.find("O") + 1 or len(means)


def large() -> Submission:
    """One whose request the kernel does not take while nobody reads."""
    message = rich()
    message.attach("large.bin", data=b"x" * (5 << 20))
    return sealed(message, ADA)
