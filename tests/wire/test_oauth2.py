"""Tokens for XOAUTH2: what is asked, when it is asked again, and who waits for it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import parse_qs

import pytest

from certificates import ca_file, server_context
from flask_outbox.mail.errors import ConfigurationError, WireError
from flask_outbox.mail.exchange import Tls
from flask_outbox.wire import oauth2
from flask_outbox.wire.oauth2 import GoogleToken, Microsoft365Token, TokenSource
from forked import in_child
from hostile import BOUND, hang_up, reset
from hostile_http import HostileHttp, say, written

SECRET = "canary-secret"
LIFE = 3600
MANY = 16


def numbered(asked, number):
    said = f'{{"token_type":"Bearer","expires_in":{LIFE},"access_token":"t{number}"}}'
    return 200, {"content-type": "application/json"}, said.encode()


def server(script=None, **more):
    return HostileHttp(script or {}, answers=numbered, **more)


class Source(TokenSource):
    """One with a clock that is set by hand."""

    def __init__(self, at):
        self.now = 1000.0
        form = {"client_secret": SECRET}
        super().__init__(f"{at.home}/token", form, clock=lambda: self.now)


def posted(at):
    (asked,) = at.requests
    assert asked.method == "POST"
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    return asked.path, {name: value for name, (value,) in parse_qs(asked.body.decode()).items()}


def test_microsoft_is_asked_in_its_words():
    with server() as at:
        source = Microsoft365Token("example.com", "id", SECRET, authority=at.home)
        assert source() == "t1"
    assert posted(at) == (
        "/example.com/oauth2/v2.0/token",
        {
            "client_id": "id",
            "client_secret": SECRET,
            "scope": "https://outlook.office365.com/.default",
            "grant_type": "client_credentials",
        },
    )


def test_google_is_asked_in_its_words():
    with server() as at:
        source = GoogleToken("id", SECRET, "1//refresh", endpoint=f"{at.home}/token")
        assert source() == "t1"
    assert posted(at) == (
        "/token",
        {
            "client_id": "id",
            "client_secret": SECRET,
            "refresh_token": "1//refresh",
            "grant_type": "refresh_token",
        },
    )


def test_where_they_are_asked_unless_told_otherwise():
    assert Microsoft365Token("a/b", "id", SECRET).endpoint == (
        "https://login.microsoftonline.com/a%2Fb/oauth2/v2.0/token"
    )
    assert GoogleToken("id", SECRET, "r").endpoint == "https://oauth2.googleapis.com/token"


def test_a_token_is_kept_until_some_minutes_before_its_end():
    with server() as at:
        source = Source(at)
        assert source() == "t1"
        source.now += LIFE - oauth2.EARLY - 1
        assert source() == "t1"
        source.now += 1
        assert source() == "t2"
        source.now += LIFE - oauth2.EARLY - 1
        assert source() == "t2"


def test_a_short_token_is_kept_for_most_of_its_life():
    with server({"whole": [say(200, {"access_token": "s", "expires_in": 100})]}) as at:
        source = Source(at)
        assert source() == "s"
        source.now += 79
        assert source() == "s"
        source.now += 1
        assert source() == "t1"


@pytest.mark.parametrize(
    ("said", "life"),
    [
        *(("3599", 3599), (1e999, oauth2.UNSAID), (None, oauth2.UNSAID), (-5, oauth2.UNSAID)),
        *(("soon", oauth2.UNSAID), (10**12, oauth2.UNSAID), (99_999, oauth2.MOST), (True, 300)),
        *((0, 0), ("\u0663", oauth2.UNSAID), (3599.5, oauth2.UNSAID), ([], oauth2.UNSAID)),
    ],
)
def test_whatever_is_said_of_its_end_has_an_end(said, life):
    assert oauth2._life(said) == life


class TestMany:
    @contextmanager
    def held(self):
        """A server that answers once it is free to, and the events: it was asked, it is free."""
        free, asked = threading.Event(), threading.Event()

        def wait(session):
            asked.set()
            assert free.wait(BOUND)
            session.polite()

        with server({"whole": wait}) as at:
            yield at, asked, free
            free.set()

    def test_threads_that_need_one_ask_once(self):
        with self.held() as (at, asked, free), ThreadPoolExecutor(MANY) as pool:
            source = Source(at)
            begun = threading.Barrier(MANY + 1)

            def ask():
                begun.wait(BOUND)
                return source()

            futures = [pool.submit(ask) for _ in range(MANY)]
            begun.wait(BOUND)
            assert asked.wait(BOUND)
            free.set()
            assert {each.result(BOUND) for each in futures} == {"t1"}
        assert len(at.requests) == 1

    def test_while_one_asks_early_the_others_go_on_with_the_old_one(self):
        with self.held() as (at, asked, free), ThreadPoolExecutor(1) as pool:
            source = Source(at)
            free.set()
            assert source() == "t1"
            free.clear()
            asked.clear()
            source.now += LIFE - 1
            early = pool.submit(source)
            assert asked.wait(BOUND)
            assert source() == "t1"
            free.set()
            assert early.result(BOUND) == "t2"
            assert source() == "t2"
        assert len(at.requests) == 2

    def test_who_waited_hears_why_there_is_none(self):
        free, asked = threading.Event(), threading.Event()

        def refuse(session):
            asked.set()
            assert free.wait(BOUND)
            session.send(written(401, {}, b'{"error":"invalid_client"}'))

        with server({"whole": refuse}) as at, ThreadPoolExecutor(MANY) as pool:
            source = Source(at)
            first = pool.submit(source)
            assert asked.wait(BOUND)
            waiting = [threading.Event() for _ in range(MANY - 1)]
            lock = source._lock

            class Seen:
                """The lock; tells of each that comes to it, having found nothing held."""

                def acquire(self, *, blocking):
                    waiting.pop().set()
                    return lock.acquire(blocking=blocking)

                def release(self):
                    lock.release()

            told = list(waiting)
            source._lock = Seen()
            others = [pool.submit(source) for _ in told]
            assert all(each.wait(BOUND) for each in told)
            free.set()
            for each in (first, *others):
                assert "invalid_client" in str(each.exception(BOUND))
        assert len(at.requests) == 1

    def test_a_refused_token_is_renewed_once_for_all_who_had_it(self):
        with server() as at:
            source = Source(at)
            assert source() == "t1"
            assert [source.renew("t1") for _ in range(3)] == ["t2"] * 3
            assert source() == "t2"
            assert source.renew("t2") == "t3"
        assert len(at.requests) == 3

    def test_no_thread_of_a_child_takes_the_lock_that_its_parent_held(self):
        taken = []

        class Watched(Source):
            def __setattr__(self, name, value):
                super().__setattr__(name, value)
                if name == "_pid" and hasattr(self, "_lock"):
                    taken.append(self._lock_here().locked())  # as another thread would, by now

        with server() as at:
            source = Watched(at)
            with source._lock:
                source.__dict__["_pid"] = 0  # who made it is another process
                taken.clear()
                assert not source._lock_here().locked()
        assert taken == [False]

    def test_a_child_that_was_forked_meanwhile_asks_by_itself(self):
        with self.held() as (at, asked, free), ThreadPoolExecutor(1) as pool:
            source = Source(at)
            first = pool.submit(source)
            assert asked.wait(BOUND)
            free.set()
            source._lock.acquire(timeout=BOUND)  # as if a thread of the parent had it
            try:
                in_child(lambda: source.renew(source._held.token))
            finally:
                source._lock.release()
            assert first.result(BOUND) == "t1"
        assert os.getpid() == source._pid


class TestFailing:
    def test_a_renewal_that_fails_leaves_the_old_one_while_it_is_good(self):
        script = {
            "whole": [say(200, {"access_token": "a", "expires_in": LIFE}), say(503), say(503)]
        }
        with server(script) as at:
            source = Source(at)
            assert source() == "a"
            source.now += LIFE - 100
            assert source() == "a"
            assert len(at.requests) == 2
            source.now += oauth2.AGAIN - 1
            assert source() == "a"
            assert len(at.requests) == 2
            source.now += 1
            assert source() == "a"
            assert len(at.requests) == 3
            source.now += 100
            assert source() == "t1"

    def test_a_token_is_not_used_past_its_end(self):
        with server(
            {"whole": [say(200, {"access_token": "a", "expires_in": 100}), say(503)]}
        ) as at:
            source = Source(at)
            assert source() == "a"
            source.now += 100
            with pytest.raises(WireError, match="gave no token: it answered 503"):
                source()
            assert source() == "t1"

    def test_a_refused_one_is_not_given_again_where_there_is_no_other(self):
        with server(
            {"whole": [say(200, {"access_token": "a", "expires_in": LIFE}), say(503)]}
        ) as at:
            source = Source(at)
            assert source() == "a"
            with pytest.raises(WireError):
                source.renew("a")
            assert source() == "t1"

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (say(401, {"error": "invalid_client"}), "401 invalid_client; check the client's id"),
            (say(400, {"error": "invalid_grant"}), "400 invalid_grant; the refresh token was"),
            (
                say(400, {"error": "x", "error_description": f"AADSTS7000215: {SECRET} is wrong"}),
                "400 x (AADSTS7000215)",
            ),
            (say(400, {"error": SECRET}), "it answered 400"),
            (say(302, b"", location="https://x.test/"), "it answered 302"),
            (say(200, b"<html>"), "it answered 200"),
            (say(200, {"access_token": ""}), "it answered 200"),
            (say(200, {"access_token": "a b"}), "it answered 200"),
            (say(200, {"access_token": "a\n"}), "it answered 200"),
            (say(200, {"access_token": 5}), "it answered 200"),
            (say(200, [{}]), "it answered 200"),
            (say(400, {"access_token": "a"}), "it answered 400"),
            (hang_up, ""),
            (reset, ""),
        ],
    )
    def test_what_is_no_token_is_an_error_without_a_secret(self, answer, told):
        with server({"whole": answer}) as at, pytest.raises(WireError) as caught:
            Source(at)()
        assert told in str(caught.value)
        assert SECRET not in str(caught.value)

    def test_a_server_that_is_not_to_be_trusted_is_told_nothing(self):
        with server(tls=server_context("of a stranger")) as at:
            form = {"client_secret": SECRET}
            source = TokenSource(f"{at.home}/token", form, tls=Tls(ca_file=ca_file()))
            with pytest.raises(WireError, match="certificate"):
                source()
        assert at.requests == []

    def test_one_that_is_to_be_trusted_is_asked(self):
        with server(tls=server_context()) as at:
            source = TokenSource(f"{at.home}/token", {}, tls=Tls(ca_file=ca_file()))
            assert source() == "t1"


@pytest.mark.parametrize(
    "authority",
    [
        *("http://x.test", "http://127.0.0.1.x.test", "ftp://x.test", "ftp://127.0.0.1", "x.test"),
        *("", "https://", "https://[x", "https://x.test:0", "https://x.test:99999"),
        *("https://bücher.test", "https://x.test/\N{NO-BREAK SPACE}", "https://x.test/\x7f"),
    ],
    ids=ascii,
)
def test_secrets_are_told_to_nobody_in_the_open(authority):
    with pytest.raises(ConfigurationError, match="https"):
        Microsoft365Token("t", "id", SECRET, authority=authority)


@pytest.mark.parametrize("missing", range(3))
@pytest.mark.parametrize("kind", [Microsoft365Token, GoogleToken])
def test_what_is_missing_is_named(kind, missing):
    given = ["one", "two", "three"]
    for blank in ("", None, " "):
        given[missing] = blank
        with pytest.raises(ConfigurationError, match=f"{kind.__name__} needs "):
            kind(*given)


def test_no_secret_is_in_its_repr():
    for source in (Microsoft365Token("t", "id", SECRET), GoogleToken("id", SECRET, SECRET)):
        assert "id at https://" in repr(source)
        assert SECRET not in repr(source)
        assert SECRET not in repr(source._request)
    with server() as at:
        source = Source(at)
        source()
        assert "t1" not in repr(source._held)
