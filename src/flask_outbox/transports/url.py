"""A transport as a URL: ``smtp://user:secret@host:587?tls=required``.

============  ===============================================================================
scheme        means
============  ===============================================================================
``resend``    Resend's API: ``resend://KEY@``
``postmark``  Postmark's API: ``postmark://TOKEN@``
``sendgrid``  SendGrid's API: ``sendgrid://KEY@``
``mailgun``   Mailgun's API: ``mailgun://KEY@DOMAIN``
``ses``       Amazon SES: ``ses://?region=eu-west-1``, ``ses://ID:SECRET@?region=eu-west-1``
``smtp``      a relay; TLS by ``tls=required``, the default where there are credentials
``smtps``     a relay with TLS from the first byte
``console``   print: ``console:``
``folder``    ``.eml`` files: ``folder:///var/mail/out``, or ``folder:out``, from here
``maildir``   a Maildir, the same way
``memory``    keep in a list, for tests: ``memory:``
``null``      forget: ``null:``
============  ===============================================================================

User, password, host and values are percent-decoded. Parameters of smtp and smtps: tls (required,
none, insecure), ca_file, cert_file, key_file, fingerprint, ehlo_name, window, max_per_line. Of
every API: home (another base URL), ca_file; of postmark besides: stream; of ses: region,
configuration_set.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import MappingProxyType
from urllib.parse import unquote

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.exchange import Tls
from flask_outbox.transports.base import Transport
from flask_outbox.transports.local import Console, Folder, Memory, Null
from flask_outbox.transports.mailgun import Mailgun
from flask_outbox.transports.postmark import Postmark
from flask_outbox.transports.resend import Resend
from flask_outbox.transports.sendgrid import SendGrid
from flask_outbox.transports.ses import WRITE, Ses
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.smtp_login import Security

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]{0,30}")
_PORT = re.compile(r"(.*?)(?::([0-9]*))?", re.DOTALL)
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """The parts, decoded. Its repr shows no secret."""

    scheme: str
    username: str | None = field(default=None, repr=False)  # of an API, this is the key
    password: str | None = field(default=None, repr=False)
    host: str = ""
    port: int = 0
    path: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    token: Callable[[], str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        named = "" if self.password is None else f"{self.username}:"
        who = "" if self.username is None else f"{named}***@"
        where = f"//{who}{self.host}{f':{self.port}' if self.port else ''}" if self.host else ""
        return f"{self.scheme}:{where}{self.path}"

    @classmethod
    def parsed(cls, text: str) -> "Url":
        """Take it apart; nothing of it is repeated in an error, since it may hold a secret."""
        whole = _SCHEME.fullmatch(text)
        if whole is None:
            raise ConfigurationError(
                "MAIL_TRANSPORT has to be a URL such as smtp://user:password@host:587 or console:"
            )
        scheme, rest = whole[1].lower(), whole[2]
        if _ESCAPE.search(rest) or not rest.isprintable() or "#" in rest:
            raise ConfigurationError(
                "MAIL_TRANSPORT: in a URL %, #, @, / and ? of a password are written as %25, %23,"
                " %40, %2F and %3F, and there are no control characters"
            )
        rest, _, query = rest.partition("?")
        authority = ""
        if rest.startswith("//"):
            authority, slash, path = rest[2:].partition("/")
            rest = slash + path
        username, password, host, port = _authority(authority)
        return cls(
            scheme=scheme,
            username=username,
            password=password,
            host=host,
            port=port,
            path=unquote(rest),
            parameters=_parameters(query),
        )


def _authority(text: str) -> tuple[str | None, str | None, str, int]:
    who, at, where = text.rpartition("@")
    user, colon, secret = who.partition(":")
    if where.startswith("["):
        host, _, after = where[1:].partition("]")
        found = _PORT.fullmatch(after)
    else:
        found = _PORT.fullmatch(where)
        host = found[1] if found else where
    number = found[2] if found else None
    if found is None or (where.startswith("[") and found[1]) or ":" in found[1]:
        raise ConfigurationError("MAIL_TRANSPORT: the port has to be a number; IPv6 is [::1]:25")
    return (
        unquote(user) if at and user else None,
        unquote(secret) if colon else None,
        unquote(host),
        int(number[:6]) if number else 0,
    )


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        if unquote(name) in found:
            raise ConfigurationError(f"MAIL_TRANSPORT: ?{unquote(name)}= is given twice")
        found[unquote(name)] = unquote(value)
    return found


def transport_from_url(
    url: str,
    token: Callable[[], str] | None = None,
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> Transport:
    """Make the transport that a URL names, or say what is wrong with it and what is known.

    ``token``: by what a relay is logged in to where the URL has a user and no password.
    ``defaults``: parameters of a relay whose URL says nothing of what they are about.
    """
    parts = replace(Url.parsed(url), token=token)
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(_unknown("scheme", parts.scheme, _SCHEMES))
    make, parameters = _SCHEMES[parts.scheme]
    for name in parts.parameters:
        if name not in parameters:
            raise ConfigurationError(_unknown("parameter", name, parameters))
    if parameters is _RELAY:
        parts = replace(parts, parameters=_completed(parts.parameters, defaults))
    return make(parts)


def _completed(given: Mapping[str, str], defaults: Mapping[str, str]) -> Mapping[str, str]:
    """Add the defaults, but none of a kind of which the URL says anything itself."""
    said = {name for kind in _KINDS if not kind.isdisjoint(given) for name in kind}
    return {**{name: each for name, each in defaults.items() if name not in said}, **given}


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say so, with a guess; what does not look like a name may be part of a secret."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    named = f" {name}" if _NAME.fullmatch(name) else ""
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"MAIL_TRANSPORT: unknown {kind}{named}{hint}; known: {', '.join(names) or 'none'}"


def _relay(parts: Url) -> Smtp:
    given = parts.parameters
    implicit = parts.scheme == "smtps"
    if parts.path not in {"", "/"}:
        raise ConfigurationError(f"MAIL_TRANSPORT: {parts.scheme} has no path after the host")
    security = _security(given["tls"]) if "tls" in given else None
    if implicit and security not in {None, Security.IMPLICIT}:
        raise ConfigurationError("MAIL_TRANSPORT: smtps is TLS from the first byte; leave tls= out")
    if security is Security.IMPLICIT and not implicit:
        raise ConfigurationError("MAIL_TRANSPORT: for TLS from the first byte write smtps://")
    by_token = parts.username and parts.password is None
    return Smtp(
        parts.host,
        parts.port,
        username=parts.username,
        password=parts.password,
        token=parts.token if by_token else None,
        security=Security.IMPLICIT if implicit else security,
        tls=Tls(
            ca_file=given.get("ca_file"),
            cert_file=given.get("cert_file"),
            key_file=given.get("key_file"),
            fingerprint=given.get("fingerprint"),
        ),
        ehlo_name=given.get("ehlo_name"),
        window=_count("window", given.get("window", "4")),
        max_per_line=_count("max_per_line", given["max_per_line"])
        if "max_per_line" in given
        else None,
    )


def _security(word: str) -> Security:
    try:
        return Security(word)
    except ValueError:
        raise ConfigurationError(
            "MAIL_TRANSPORT: tls= has to be required, none or insecure"
        ) from None


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):  # noqa: PLR2004  any real one
        raise ConfigurationError(f"MAIL_TRANSPORT: {name}= has to be a number")
    return int(text)


def _key(parts: Url, after: str) -> str:
    """Give the key of an API. ``after``: what its URL names besides."""
    if parts.username is None or parts.password is not None or parts.host or parts.path:
        raise ConfigurationError(
            f"MAIL_TRANSPORT: write {parts.scheme}://KEY@{after}, where KEY is the one of the API"
        )
    return parts.username


def _api(parts: Url, after: str = "") -> tuple[str, str | None, Tls]:
    given = parts.parameters
    return _key(parts, after), given.get("home"), Tls(ca_file=given.get("ca_file"))


def _resend(parts: Url) -> Resend:
    key, home, tls = _api(parts)
    return Resend(key, home, tls=tls)


def _postmark(parts: Url) -> Postmark:
    key, home, tls = _api(parts)
    return Postmark(key, home, stream=parts.parameters.get("stream", ""), tls=tls)


def _sendgrid(parts: Url) -> SendGrid:
    key, home, tls = _api(parts)
    return SendGrid(key, home, tls=tls)


def _mailgun(parts: Url) -> Mailgun:
    key, home, tls = _api(replace(parts, host=""), "DOMAIN")
    return Mailgun(key, parts.host, home, tls=tls)


def _ses(parts: Url) -> Ses:
    given = parts.parameters
    if parts.host or parts.path or (parts.username is None) != (parts.password is None):
        raise ConfigurationError(f"MAIL_TRANSPORT: {WRITE}")
    return Ses(
        given.get("region", ""),
        (parts.username or "", parts.password or "") if parts.username is not None else None,
        given.get("home"),
        configuration_set=given.get("configuration_set", ""),
        tls=Tls(ca_file=given.get("ca_file")),
    )


def _folder(parts: Url) -> Folder:
    if parts.host or not parts.path:
        raise ConfigurationError(
            f"MAIL_TRANSPORT: write {parts.scheme}:///an/absolute/path or {parts.scheme}:a/path"
        )
    return Folder(parts.path, maildir=parts.scheme == "maildir")


def _bare(make: Callable[[], Transport]) -> Callable[[Url], Transport]:
    def made(parts: Url) -> Transport:
        if parts.host or parts.username or parts.path:
            raise ConfigurationError(f"MAIL_TRANSPORT: write {parts.scheme}: and nothing after it")
        return make()

    return made


_RELAY = (
    *("tls", "ca_file", "cert_file", "key_file", "fingerprint"),
    *("ehlo_name", "window", "max_per_line"),
)
# Whom a relay is to be, who we are, and what we are called: each is said as a whole.
_KINDS = ({"ca_file", "fingerprint"}, {"cert_file", "key_file"}, {"ehlo_name"})
_API = ("home", "ca_file")
_SCHEMES: Mapping[str, tuple[Callable[[Url], Transport], tuple[str, ...]]] = {
    "smtp": (_relay, _RELAY),
    "smtps": (_relay, _RELAY),
    "resend": (_resend, _API),
    "postmark": (_postmark, (*_API, "stream")),
    "sendgrid": (_sendgrid, _API),
    "mailgun": (_mailgun, _API),
    "ses": (_ses, (*_API, "region", "configuration_set")),
    "console": (_bare(Console), ()),
    "folder": (_folder, ()),
    "maildir": (_folder, ()),
    "memory": (_bare(Memory), ()),
    "null": (_bare(Null), ()),
}
