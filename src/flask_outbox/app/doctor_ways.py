"""The doctor's look at the ways out: each is reached and logged in to, and no more."""

from collections.abc import Iterator

from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.mail.errors import TlsError, WireError
from flask_outbox.transports.base import HttpTransport, Transport
from flask_outbox.transports.smtp import Smtp, is_loopback
from flask_outbox.transports.smtp_auth import AUTH_REFUSED
from flask_outbox.transports.smtp_login import Security


def transports(patient: Patient) -> Iterator[Diagnosis]:
    """Knock at each."""
    for route, transport in patient.ways.items():
        yield from _look(route, transport, patient.seconds)


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
        yield Diagnosis("transports", Grade.ERROR, f"{name}: {error}", _fix(error))
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


def _fix(error: WireError) -> str:
    if AUTH_REFUSED in str(error):
        return "Look at MAIL_USERNAME and MAIL_PASSWORD, or the user and password in the URL."
    if isinstance(error, TlsError):
        return "Look at MAIL_TLS_CA_FILE, MAIL_USE_TLS and MAIL_USE_SSL; keep TLS verified."
    return (
        "Look at MAIL_SERVER and MAIL_PORT, or the URL of the transport, and at firewalls: many"
        " hosts let nothing out to port 25."
    )
