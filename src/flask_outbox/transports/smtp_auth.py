"""AUTH: what is said for each mechanism, as challenge and response (RFC 4954).

PLAIN RFC 4616, LOGIN draft-murchison-sasl-login-00, CRAM-MD5 RFC 2195, XOAUTH2 as Google and
Microsoft document it. A mechanism is a function from the credentials to the responses.
"""

import hmac
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from flask_outbox.mail.exchange import Answer, Question, SmtpReply, Token, Write
from flask_outbox.transports.smtp_secrets import GuardedRead, Secrets
from flask_outbox.transports.smtp_timeouts import Timeouts

AUTH_REFUSED = "AUTH refused"  # how the text of such an outcome begins
CHALLENGE = 334
_NOT_ACCEPTED = 535  # RFC 4954 section 6
_LONGEST = 500  # octets of an AUTH line; what is longer waits for a 334 (RFC 4954 section 4)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who logs in; either a password or a source of tokens."""

    username: str
    password: str | None = field(default=None, repr=False)
    token: Callable[[], str] | None = field(default=None, repr=False)


class LoginRefused(Exception):  # noqa: N818  what happened, and inside transports only
    """The server will not have us; the text is for people, and holds no secret."""


Responses = Generator[bytes | None, bytes, None]  # None: the server speaks first
Asking = Generator[Question, Answer, None]


def _plain(username: str, secret: str) -> Responses:
    yield f"\0{username}\0{secret}".encode()


def _login(username: str, secret: str) -> Responses:
    yield None
    yield username.encode()
    yield secret.encode()


def _cram_md5(username: str, secret: str) -> Responses:
    challenge = yield None
    # MD5 is what the mechanism is; in private it comes last.
    digest = hmac.new(secret.encode(), challenge, "md5").hexdigest()
    yield f"{username} {digest}".encode()


def _xoauth2(username: str, secret: str) -> Responses:
    yield f"user={username}\1auth=Bearer {secret}\1\1".encode()
    yield b""  # a 334 now holds the reason for the refusal; an empty line asks for the 535


_MECHANISMS: Mapping[str, Callable[[str, str], Responses]] = {
    "PLAIN": _plain,
    "LOGIN": _login,
    "CRAM-MD5": _cram_md5,
    "XOAUTH2": _xoauth2,
}
_IN_PRIVATE = ("PLAIN", "LOGIN", "CRAM-MD5")
_IN_THE_OPEN = ("CRAM-MD5", "PLAIN", "LOGIN")


def confided(credentials: Credentials | None) -> Secrets:
    """Begin to keep what a line is told in confidence; a server may know it from another line."""
    secrets = Secrets()
    if credentials is not None and credentials.password:
        secrets.note(credentials.password)
        secrets.note(f"\0{credentials.username}\0{credentials.password}")
    return secrets


def choose(
    offered: frozenset[str], credentials: Credentials, secrets: Secrets, *, private: bool
) -> str:
    """Choose a mechanism that the server offers and the credentials are good for."""
    if credentials.token is not None:
        ours: tuple[str, ...] = ("XOAUTH2",)
    else:
        ours = _IN_PRIVATE if private else _IN_THE_OPEN
    found = next((name for name in ours if name in offered), "")
    if not found:
        offers = secrets.hide(", ".join(sorted(offered))) or "none"
        raise LoginRefused(
            f"{AUTH_REFUSED}: for MAIL_USERNAME we speak {', '.join(ours)};"
            f" the server offers {offers}"
        )
    return found


def authenticate(
    offered: frozenset[str],
    credentials: Credentials,
    secrets: Secrets,
    times: Timeouts,
    *,
    private: bool,
) -> Asking:
    """Log in, or raise LoginRefused with the server's reply; ``secrets`` learns what was said.

    A token that is refused may have been withdrawn before its time: another is asked for, once.
    """
    name = choose(offered, credentials, secrets, private=private)
    if credentials.token is None:
        reply = yield from _attempt(name, credentials, credentials.password or "", secrets, times)
    else:
        token = usable((yield Token(credentials.token)))
        reply = yield from _attempt(name, credentials, token, secrets, times)
        if reply.code == _NOT_ACCEPTED:
            fresh = usable((yield Token(credentials.token, refused=token)))
            if fresh != token:
                reply = yield from _attempt(name, credentials, fresh, secrets, times)
    if not 200 <= reply.code < 300:  # noqa: PLR2004  the class of a reply is its first digit
        raise LoginRefused(
            f"{AUTH_REFUSED}: MAIL_USERNAME, by {name}, was answered with {secrets.clean(reply)}"
        )


def _attempt(
    name: str, credentials: Credentials, secret: str, secrets: Secrets, times: Timeouts
) -> Generator[Question, Answer, SmtpReply]:
    """Say AUTH and all that belongs to it, and hear the last word."""
    secrets.note(secret)
    responses = _noted(_MECHANISMS[name](credentials.username, secret), credentials, secrets)
    command = b"AUTH " + name.encode()
    response = next(responses)
    if response is not None and len(command) + len(response) * 4 // 3 < _LONGEST:
        command += b" " + _coded(response)
        response = None
    read = GuardedRead(times.command, secrets.clean)
    yield Write((command + b"\r\n",), times.block)
    reply: SmtpReply = yield read
    while reply.code == CHALLENGE:
        if response is None:
            response = _respond(responses, reply)
        yield Write((_coded(response) + b"\r\n",), times.block)
        response = None
        reply = yield read
    return reply


def usable(token: object) -> str:
    """Give the token back that an app's function gave, or raise LoginRefused (RFC 6750)."""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        token = ""
    if not token or " " in token:
        raise LoginRefused(
            "MAIL_OAUTH2_TOKEN gave no token: it has to be plain ASCII, without spaces or line ends"
        )
    return token


def _noted(responses: Responses, credentials: Credentials, secrets: Secrets) -> Responses:
    """Pass the responses on, and keep in mind what is said; the name alone is no secret."""
    challenge: bytes | None = None
    username = credentials.username
    while True:
        try:
            response = next(responses) if challenge is None else responses.send(challenge)
        except StopIteration:
            return
        said = "" if response is None else response.decode()
        if said != username:
            secrets.note(said)
            secrets.note(said.removeprefix(f"{username} "))  # CRAM-MD5: the digest alone
        challenge = yield response


def _respond(responses: Responses, reply: SmtpReply) -> bytes:
    try:
        response = responses.send(a2b_base64("".join(reply.lines)))
    except (StopIteration, NotBase64, ValueError):
        response = None
    if response is None:
        raise LoginRefused(f"{AUTH_REFUSED}: the server asked for more than the mechanism has")
    return response


def _coded(response: bytes) -> bytes:
    return b2a_base64(response, newline=False)
