"""AUTH: what is said for each mechanism, as challenge and response (RFC 4954).

PLAIN RFC 4616, LOGIN draft-murchison-sasl-login-00, CRAM-MD5 RFC 2195, XOAUTH2 as Google and
Microsoft document it. A mechanism is a function from the credentials to the responses.
"""

import hmac
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from flask_outbox.mail.exchange import Answer, Question, Read, SmtpReply, Token, Write
from flask_outbox.transports.smtp_timeouts import Timeouts

AUTH_REFUSED = "AUTH refused"  # how the text of such an outcome begins
CHALLENGE = 334
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


def choose(offered: frozenset[str], credentials: Credentials, *, private: bool) -> str:
    """Choose a mechanism that the server offers and the credentials are good for."""
    if credentials.token is not None:
        ours: tuple[str, ...] = ("XOAUTH2",)
    else:
        ours = _IN_PRIVATE if private else _IN_THE_OPEN
    found = next((name for name in ours if name in offered), "")
    if not found:
        offers = ", ".join(sorted(offered)) or "none"
        raise LoginRefused(
            f"{AUTH_REFUSED}: for MAIL_USERNAME we speak {', '.join(ours)};"
            f" the server offers {offers}"
        )
    return found


def authenticate(
    offered: frozenset[str], credentials: Credentials, times: Timeouts, *, private: bool
) -> Asking:
    """Log in, or raise LoginRefused with the server's reply."""
    name = choose(offered, credentials, private=private)
    if credentials.token is not None:
        secret: str = yield Token(credentials.token)
    else:
        secret = credentials.password or ""
    responses = _MECHANISMS[name](credentials.username, secret)
    command = b"AUTH " + name.encode()
    response = next(responses)
    if response is not None and len(command) + len(response) * 4 // 3 < _LONGEST:
        command += b" " + _coded(response)
        response = None
    read = Read(times.command)
    yield Write((command + b"\r\n",), times.block)
    reply: SmtpReply = yield read
    while reply.code == CHALLENGE:
        if response is None:
            response = _respond(responses, reply)
        yield Write((_coded(response) + b"\r\n",), times.block)
        response = None
        reply = yield read
    if not 200 <= reply.code < 300:  # noqa: PLR2004  the class of a reply is its first digit
        raise LoginRefused(
            f"{AUTH_REFUSED}: MAIL_USERNAME, by {name}, was answered with"
            f" {redacted(str(reply), credentials.username, secret)}"
        )


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


def redacted(text: str, username: str, secret: str) -> str:
    """Take out what a server might repeat of what we told it in confidence."""
    if not secret:
        return text
    forms = (secret, _coded(secret.encode()), _coded(f"\0{username}\0{secret}".encode()))
    for form in forms:
        text = text.replace(form if isinstance(form, str) else form.decode(), "***")
    return text
