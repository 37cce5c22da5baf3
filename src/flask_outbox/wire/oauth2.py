"""Tokens for XOAUTH2 from Microsoft's and Google's servers (RFC 6749): asked for, kept, renewed.

A source is called by whoever logs in, in any thread, and may block. One caller asks for the next
token, some minutes before the old one ends; meanwhile the others go on with that one, and where
there is none they wait for what comes, be it a token or the reason why there is none.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from urllib.parse import quote, urlencode, urlsplit

from flask_outbox.mail.errors import ConfigurationError, WireError
from flask_outbox.mail.exchange import Conversation, HttpRequest, HttpResponse, Tls
from flask_outbox.wire.pool import Pool
from flask_outbox.wire.sync import carry

# As the vendors' pages have them: "Microsoft identity platform and the OAuth 2.0 client credentials
# flow", with the scope of "Authenticate an IMAP, POP or SMTP connection using OAuth"; and "Using
# OAuth 2.0 for Web Server Applications". Tried against a server of ours, never against theirs.
MICROSOFT = "https://login.microsoftonline.com"
MICROSOFT_SCOPE = "https://outlook.office365.com/.default"
GOOGLE = "https://oauth2.googleapis.com/token"

EARLY = 300.0  # seconds before its end that a token is renewed; at most a fifth of its life
AGAIN = 30.0  # seconds until the next attempt, where the old token is still good
ASKING = 20.0  # seconds for one request
UNSAID = 300.0  # seconds that a token is good for where nothing is said of it
MOST = 86_400.0

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_TOKEN = re.compile(r"[!-~]+")
_ERROR = re.compile(r"[a-z_]{1,40}")
_NUMBER = re.compile(r"AADSTS\d{1,9}")  # Microsoft's own, in its description of an error
_FIXES: Mapping[str, str] = {
    "invalid_client": "check the client's id and secret, and that the secret has not expired",
    "invalid_grant": "the refresh token was withdrawn or has expired: get a new one",
    "unauthorized_client": "the client is not allowed to do this: check its permissions",
    "invalid_scope": "check the scope",
}
_verified = Tls()


@dataclass(frozen=True, slots=True)
class _Held:
    """What came of the latest request; times are monotonic seconds."""

    token: str = field(default="", repr=False)
    fresh_until: float = 0.0
    good_until: float = 0.0
    problem: str = ""


class TokenSource:
    """A function that gives a token, asked for at ``endpoint`` by posting ``form``.

    ``clock`` is monotonic. Raises ConfigurationError for an endpoint that is not https, but for
    one on loopback. No text of an error holds what was posted or answered.
    """

    def __init__(
        self,
        endpoint: str,
        form: Mapping[str, str],
        *,
        tls: Tls = _verified,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.form = dict(form)
        self.endpoint = _checked(endpoint)
        self._clock = clock
        self._request = HttpRequest(
            url=endpoint,
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/json",
            },
            body=urlencode(self.form).encode(),
            seconds=ASKING,
            tls=tls,
        )
        self._held = _Held()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.form.get('client_id', '')} at {self.endpoint}>"

    def __call__(self) -> str:
        """Give a token that is good for a while yet; WireError where there is none to be had."""
        held = self._held
        now = self._clock()
        if now < held.fresh_until:
            return held.token
        return self._next(held, spare=held.token if now < held.good_until else "")

    def renew(self, refused: str) -> str:
        """Give another token than this one, which a server would not have."""
        held = self._held
        if held.token != refused:
            return self()
        return self._next(held, spare="")

    def _next(self, held: _Held, *, spare: str) -> str:
        """Ask, or hear what came of it where somebody else has; who has a spare does not wait."""
        lock = self._lock_here()
        if not lock.acquire(blocking=not spare):
            return spare
        try:
            if self._held is held:
                self._held = self._asked(held if spare else _Held())
            came = self._held
        finally:
            lock.release()
        if not came.token:
            raise WireError(came.problem)
        return came.token

    def _lock_here(self) -> threading.Lock:
        """Give the lock, in a child that was forked while it was held a new one."""
        if self._pid != os.getpid():
            self._lock = threading.Lock()  # before who looks at the process takes the old one
            self._pid = os.getpid()
        return self._lock

    def _asked(self, spare: _Held) -> _Held:
        """Ask the server; where it does not give one, the spare token is good for a while yet."""
        began = self._clock()
        try:
            token, life = _read(self._exchange(), self.endpoint)
        except WireError as error:
            fresh = min(self._clock() + AGAIN, spare.good_until)
            return _Held(spare.token, fresh, spare.good_until, str(error))
        return _Held(token, began + life - min(EARLY, life / 5), began + life)

    def _exchange(self) -> HttpResponse:
        came: list[HttpResponse] = []
        try:
            for _ in carry(_asking(self._request, came), Pool(most=0), seconds=ASKING):
                pass
        except WireError as error:
            raise WireError(f"no token came: {error}") from error
        return came[0]


class Microsoft365Token(TokenSource):
    """Tokens of an app registered with Microsoft, which may send by itself (SMTP.SendAsApp).

    ``tenant``: its directory's id or domain. ``authority``: another cloud's, such as
    ``https://login.microsoftonline.us``.
    """

    def __init__(  # noqa: PLR0913  what Microsoft asks for, and three that have defaults
        self,
        tenant: str,
        client_id: str,
        client_secret: str,
        *,
        scope: str = MICROSOFT_SCOPE,
        authority: str = MICROSOFT,
        tls: Tls = _verified,
    ) -> None:
        _need("Microsoft365Token", tenant=tenant, client_id=client_id, client_secret=client_secret)
        super().__init__(
            f"{authority}/{quote(tenant, safe='')}/oauth2/v2.0/token",
            {
                "client_id": client_id,
                "client_secret": client_secret,
                "scope": scope,
                "grant_type": "client_credentials",
            },
            tls=tls,
        )


class GoogleToken(TokenSource):
    """Tokens for an account that has let a client send for it (scope https://mail.google.com/).

    ``refresh_token``: what came of that, once, in a browser.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str,
        refresh_token: str,
        *,
        endpoint: str = GOOGLE,
        tls: Tls = _verified,
    ) -> None:
        _need(
            "GoogleToken",
            client_id=client_id,
            client_secret=client_secret,
            refresh_token=refresh_token,
        )
        super().__init__(
            endpoint,
            {
                "client_id": client_id,
                "client_secret": client_secret,
                "refresh_token": refresh_token,
                "grant_type": "refresh_token",
            },
            tls=tls,
        )


def _need(source: str, **values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(f"MAIL_OAUTH2_TOKEN: {source} needs {name}, a text")


def _checked(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, known = urlsplit(""), False
    is_private = parts.scheme == "https" or (
        parts.scheme == "http" and _LOOPBACK.fullmatch(parts.hostname or "")
    )
    if not known or not is_private or not endpoint.isascii() or not endpoint.isprintable():
        raise ConfigurationError(
            "MAIL_OAUTH2_TOKEN: the server of the tokens has to be an https:// address, since it"
            " is told secrets"
        )
    return endpoint


def _asking(request: HttpRequest, came: list[HttpResponse]) -> Conversation:
    came.append((yield request))


def _read(answer: HttpResponse, endpoint: str) -> tuple[str, float]:
    """Give the token, and for how many seconds it is good (RFC 6749 section 5)."""
    token = answer.text_at("access_token")
    if answer.status != 200 or not _TOKEN.fullmatch(token):  # noqa: PLR2004  RFC 6749 section 5.1
        raise WireError(f"{urlsplit(endpoint).netloc} gave no token: {_reason(answer)}")
    return token, _life(answer.at("expires_in"))


def _life(said: object) -> float:
    """Read for how many seconds a token is good; some say the number as a text."""
    number = str(said)
    if not number.isascii() or not number.isdecimal() or len(number) > len(str(MOST)):
        return UNSAID
    return min(float(number), MOST)


def _reason(answer: HttpResponse) -> str:
    """Say why, in words that cannot hold a secret: codes alone."""
    error = answer.text_at("error")
    if not _ERROR.fullmatch(error):
        return f"it answered {answer.status}"
    number = _NUMBER.search(answer.text_at("error_description"))
    detail = f" ({number[0]})" if number else ""
    fix = f"; {_FIXES[error]}" if error in _FIXES else ""
    return f"it answered {answer.status} {error}{detail}{fix}"
