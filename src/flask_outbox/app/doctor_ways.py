"""The doctor's look at the ways out: each is reached and logged in to, and no more."""

from collections.abc import Iterator

from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.transports.base import HttpTransport, Transport
from flask_outbox.transports.smtp import Smtp, is_loopback
from flask_outbox.transports.smtp_auth import AUTH_REFUSED
from flask_outbox.transports.smtp_login import Security

# What the text of an error has, and what to do then; the first that fits.
FIXES = (
    (
        "by XOAUTH2",
        "Look at the user in MAIL_USERNAME or the URL, and whether the token's may send as it.",
    ),
    (
        "the server offers",
        "Look whether it takes a login at this port, and whether by TLS alone: MAIL_USE_TLS.",
    ),
    (
        AUTH_REFUSED,
        "Look at MAIL_USERNAME and MAIL_PASSWORD, or the user and password in the URL.",
    ),
    ("gave no token", "Look at what MAIL_OAUTH2_TOKEN is, and at the id and secret it was given."),
    ("no token came", "Look at firewalls, and at the server that MAIL_OAUTH2_TOKEN names."),
    ("the token source", "Look at the function in MAIL_OAUTH2_TOKEN."),
    (
        "AWS credentials",
        "Give the machine a role, set AWS_*, or write ses://ID:SECRET@?region=… in MAIL_TRANSPORT.",
    ),
)


def transports(patient: Patient) -> Iterator[Diagnosis]:
    """Knock at each."""
    for route, transport in patient.ways.items():
        yield from _look(route, transport, patient.seconds)
    if patient.runtime.tenants is not None:
        text = "What @mail.load_transport makes of a name is not looked at."
        yield Diagnosis("transports", Grade.SKIPPED, text)


def _look(name: str, transport: Transport, seconds: float) -> Iterator[Diagnosis]:
    if not isinstance(transport, Smtp | HttpTransport):
        yield Diagnosis(
            "transports", Grade.SKIPPED, f"{name}: {transport.name} is not asked over a network."
        )
        return
    from flask_outbox.wire import sync  # noqa: PLC0415  brings sockets

    pool = sync.Pool()
    try:
        for _ in sync.carry(transport.knock(), pool, seconds=seconds):
            pass
    except WireError as error:
        yield Diagnosis("transports", Grade.ERROR, f"{name}: {error}", _fix(error, transport))
        return
    finally:
        pool.close()
    yield Diagnosis("transports", Grade.OK, f"{name}: {_done(transport)}.")
    if _is_open(transport):
        yield Diagnosis(
            "transports",
            Grade.WARNING,
            f"{name}: mail travels in the open to {transport!r}.",
            "Set MAIL_USE_TLS=True (smtp://…?tls=required) or MAIL_USE_SSL=True (smtps://…).",
        )


def _done(transport: Smtp | HttpTransport) -> str:
    if isinstance(transport, HttpTransport):
        return f"{transport!r} was reached; its key is only tried by sending"
    tls = ", TLS verified" if transport.security in {Security.REQUIRED, Security.IMPLICIT} else ""
    auth = ", AUTH accepted" if transport.logs_in else ", without AUTH"
    return f"{transport!r} was reached{tls}{auth}"


def _is_open(transport: Smtp | HttpTransport) -> bool:
    if isinstance(transport, HttpTransport):
        return False  # https, or http on this machine alone
    return transport.security in {Security.NONE, Security.INSECURE} and not is_loopback(
        transport.host
    )


def _fix(error: WireError, transport: Smtp | HttpTransport) -> str:
    text = str(error)
    if fix := next((fix for words, fix in FIXES if words in text), ""):
        return fix
    if isinstance(transport, HttpTransport):
        return "Look at firewalls, and at home= and ca_file= in its URL; keep TLS verified."
    if isinstance(error, TlsError):
        return "Look at MAIL_TLS_CA_FILE, MAIL_USE_TLS and MAIL_USE_SSL; keep TLS verified."
    return (
        "Look at MAIL_SERVER and MAIL_PORT, or the URL of the transport, and at firewalls: many"
        " hosts let nothing out to port 25."
    )
