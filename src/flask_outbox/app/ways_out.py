"""From settings and live fields to transports."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import cast

from flask_outbox.app.failover import Way
from flask_outbox.app.flask_mail import _Mail
from flask_outbox.app.reading_ways import LONGEST_NAME, Several
from flask_outbox.app.settings import Settings
from flask_outbox.mail.errors import ConfigurationError, TlsError
from flask_outbox.mail.exchange import Tls
from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.base import HttpTransport, Transport
from flask_outbox.transports.carries import refuse

SUBMISSION, SUBMISSIONS = 587, 465  # RFC 8314: STARTTLS, and TLS from the first byte

# What says where a transport goes, of whichever kind it is.
PLACES = ("host", "region", "domain")
# What the keys of Flask-Mail are called where they are parts of a URL.
PARTS = {"MAIL_SERVER": "host", "MAIL_PORT": "port"}


def configured(settings: Settings, name: str) -> Way | None:
    """Give what MAIL_TRANSPORT and MAIL_TRANSPORTS say of a name."""
    value = settings.transports.get(name)
    key = f"MAIL_TRANSPORTS[{name!r}]"
    if value is None and name == "default":
        value, key = settings.transport, "MAIL_TRANSPORT"
    if value is None:
        return None
    if not isinstance(value, Several):
        return single(name, _made(key, value, settings))
    ways = [[(_made(key, way, settings), weight) for way, weight in tier] for tier in value.tiers]
    names = iter(_named(name, [transport for tier in ways for transport, _ in tier]))
    routes: dict[str, Transport] = {}
    tiers: list[dict[str, float]] = []
    for tier in ways:
        tiers.append({})
        for (transport, weight), route in zip(tier, names, strict=False):
            routes[route] = transport
            tiers[-1][route] = weight
    return Way(Routing(name, tuple(tiers)), routes)


def single(name: str, transport: Transport) -> Way:
    """Give a transport its only route."""
    return Way(Routing.single(name), {name: transport})


def _made(key: str, value: object, settings: Settings) -> Transport:
    if not isinstance(value, str):
        return cast("Transport", value)
    from flask_outbox.transports.url import transport_from_url  # noqa: PLC0415  only for URLs

    try:
        return transport_from_url(value, settings.oauth2_token, _of_relays(settings))
    except ConfigurationError as error:
        text = str(error).replace("MAIL_TRANSPORT", key)
        for part, word in PARTS.items():
            text = text.replace(f"{part} has to", f"{key}: the {word} has to")
        raise ConfigurationError(text if key in text else f"{key}: {text}") from None


def _named(transport: str, ways: Sequence[Transport]) -> list[str]:
    """Name each of several routes by where it goes, so that it stays the same in another order.

    Those of one kind that go to one place have a mark of the account besides.
    """
    names = [_plain(transport, each) for each in ways]
    several = {name for name, count in Counter(names).items() if count > 1}
    taken: Counter[str] = Counter()
    for place, (way, name) in enumerate(zip(ways, names, strict=True)):
        identity = str(getattr(way, "identity", ""))
        marked = f"{name}~{_mark(identity)}" if name in several and identity else name
        taken[marked] += 1
        # The same way twice: whichever of them is which.
        names[place] = _fitting(marked if taken[marked] == 1 else f"{marked}-{taken[marked]}")
    return names


def _plain(transport: str, way: Transport) -> str:
    place = next((str(at) for each in PLACES if (at := getattr(way, each, ""))), "")
    return f"{transport}.{way.name}" + (f"-{place}" if place else "")


def _fitting(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 9]}~{_mark(name)}"


def _mark(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def from_fields(state: _Mail, settings: Settings) -> Transport:
    """Make the SMTP transport that Flask-Mail's keys, or the live fields, describe."""
    from flask_outbox.transports.smtp import Smtp  # noqa: PLC0415  not where there is none
    from flask_outbox.transports.smtp_login import Security  # noqa: PLC0415  the same

    _check(state)
    security = Security.NONE
    if state.use_ssl:
        security = Security.IMPLICIT
    elif state.use_tls:
        security = Security.REQUIRED
    token = settings.oauth2_token
    # As with Flask-Mail, a user name alone logs nobody in.
    logs_in = bool(state.username and (state.password or token))
    return Smtp(
        state.server,
        int(state.port or 0),
        username=state.username if logs_in else None,
        password=state.password if logs_in and not token else None,
        token=token if logs_in else None,
        security=security,
        tls=_tls(settings),
        ehlo_name=settings.ehlo_name,
        max_per_line=state.max_emails or None,
    )


def _of_relays(settings: Settings) -> Mapping[str, str]:
    """Give what the settings say of every relay, in the words of its URL."""
    tls = _tls(settings)
    said = {
        "ca_file": tls.ca_file,
        "cert_file": tls.cert_file,
        "key_file": tls.key_file,
        "fingerprint": tls.fingerprint,
        "ehlo_name": settings.ehlo_name,
    }
    return {name: value for name, value in said.items() if value is not None}


def _tls(settings: Settings) -> Tls:
    return Tls(
        ca_file=settings.tls_ca_file,
        cert_file=settings.tls_cert_file,
        key_file=settings.tls_key_file,
        fingerprint=settings.tls_fingerprint,
    )


def check(way: Way, submission: Submission) -> None:
    """Raise UnsupportedFeature where one of its routes cannot carry it."""
    for each in way.routes.values():
        if isinstance(each, HttpTransport):
            each.check(submission)
        else:
            refuse(each.name, each.carries, submission)


def check_tls_files(settings: Settings) -> None:
    """Raise ConfigurationError for files of MAIL_TLS_* that are not what they should be."""
    if not (settings.tls_ca_file or settings.tls_cert_file):
        return
    from flask_outbox.wire.tls import check_files  # noqa: PLC0415  reads them, where there are any

    try:
        check_files(_tls(settings))
    except TlsError as error:
        raise ConfigurationError(f"{error}. They must be PEM files.") from error


def check_token(settings: Settings, transports: Iterable[Transport]) -> None:
    """Raise ConfigurationError for a MAIL_OAUTH2_TOKEN that logs nobody in.

    Where nothing leaves the machine, as with ``console:`` while an app is written, it is let be.
    """
    token = settings.oauth2_token
    if token is None:
        return
    from flask_outbox.transports.smtp import Smtp  # noqa: PLC0415  not where there is none

    several = list(transports)
    relays = [each for each in several if isinstance(each, Smtp)]
    leaves = relays or any(isinstance(each, HttpTransport) for each in several)
    if leaves and not any(each.logs_in_by(token) for each in relays):
        raise ConfigurationError(
            "MAIL_OAUTH2_TOKEN is set, but nobody logs in by it: set MAIL_USERNAME beside"
            " MAIL_SERVER, or write a user and no password into the URL, as in"
            " smtp://USER@smtp.example.com:587; or leave the token out."
        )


def _check(state: _Mail) -> None:
    if not state.server:
        raise ConfigurationError(
            "MAIL_SERVER is empty: set it to your mail server's name, or MAIL_SUPPRESS_SEND=True to"
            " send nothing."
        )
    if not state.port:
        raise ConfigurationError(
            "MAIL_PORT is 0: set it to 587 with MAIL_USE_TLS, to 465 with MAIL_USE_SSL, or to 25."
        )
    if state.use_tls and state.use_ssl:
        raise ConfigurationError(
            "MAIL_USE_TLS and MAIL_USE_SSL are both set: keep MAIL_USE_TLS for STARTTLS (port 587),"
            " or MAIL_USE_SSL for TLS from the first byte (port 465)."
        )
    if state.port == SUBMISSIONS and not state.use_ssl:
        raise ConfigurationError(
            "MAIL_PORT is 465, where TLS begins with the first byte: set MAIL_USE_SSL=True and not"
            " MAIL_USE_TLS, or MAIL_PORT=587 for MAIL_USE_TLS."
        )
    if state.port == SUBMISSION and state.use_ssl:
        raise ConfigurationError(
            "MAIL_PORT is 587, where TLS begins with STARTTLS: set MAIL_USE_TLS=True and not"
            " MAIL_USE_SSL, or MAIL_PORT=465 for MAIL_USE_SSL."
        )


def live(state: _Mail) -> tuple[object, ...]:
    """Give what a transport is made of, so that a change is noticed."""
    return (
        state.server,
        state.port,
        state.username,
        state.password,
        state.use_tls,
        state.use_ssl,
        state.max_emails,
    )
