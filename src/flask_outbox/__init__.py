"""E-mail for Flask that a user never waits for, and that is never lost.

::

                     app              the Flask face: Mail, settings, CLI
                      │
                   worker             introduces the three below to one another
        ┌─────────────┼───────────┐
     outbox      transports     wire
   keeps mail    speaks mail    carries bytes
  (SQL, no net)   (no I/O)      (sockets, no SQL)
        └─────────────┼───────────┘
                     mail             values and rules

Imports run downwards only. ``docs/architecture.md`` says the rest; ``worker/journey.py`` is the
file to open first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_outbox.app.extension import Mail
    from flask_outbox.app.flask_mail import (
        Connection,
        FlaskMailUnicodeDecodeError,
        Message,
        _has_newline,
        _Mail,
        _MailMixin,
        force_text,
        sanitize_address,
        sanitize_addresses,
        sanitize_subject,
    )
    from flask_outbox.app.security import OutboxMailUtil as OutboxMailUtil
    from flask_outbox.app.sending import SendError
    from flask_outbox.app.signals import (
        email_dispatched,
        message_deferred,
        message_failed,
        message_queued,
        message_sent,
        route_paused,
        route_resumed,
        signals,
        worker_lost,
    )
    from flask_outbox.app.stand_in import install_as_flask_mail
    from flask_outbox.mail.address import Address
    from flask_outbox.mail.errors import (
        BadHeaderError,
        ConfigurationError,
        KeyConflict,
        MessageCancelled,
        MessageError,
        OutboxError,
        OutboxUnavailable,
        TooLargeError,
        UnsupportedFeature,
    )
    from flask_outbox.mail.lifecycle import State
    from flask_outbox.mail.lint import Finding, Severity
    from flask_outbox.mail.message import Attachment, Invitation
    from flask_outbox.mail.outcome import Accepted, Deferred, Refused, Unclear
    from flask_outbox.mail.submission import Dsn, Receipt, Submission
    from flask_outbox.outbox import migrations
    from flask_outbox.outbox.joined import include_object
    from flask_outbox.outbox.schedule import Priority
    from flask_outbox.outbox.status import Status
    from flask_outbox.version import __version__
    from flask_outbox.wire.oauth2 import GoogleToken, Microsoft365Token

# Each name is imported when it is first asked for: who only sends never loads the outbox, and
# a command-line tool that only wants an exception never loads Flask.
_PLACES = {
    "app.extension": ("Mail",),
    "app.flask_mail": (
        *("Connection", "FlaskMailUnicodeDecodeError", "Message", "_Mail", "_MailMixin"),
        *("_has_newline", "force_text", "sanitize_address", "sanitize_addresses"),
        "sanitize_subject",
    ),
    "app.security": ("OutboxMailUtil",),
    "app.sending": ("SendError",),
    "app.signals": (
        *("email_dispatched", "message_deferred", "message_failed", "message_queued"),
        *("message_sent", "route_paused", "route_resumed", "signals", "worker_lost"),
    ),
    "app.stand_in": ("install_as_flask_mail",),
    "mail.address": ("Address",),
    "mail.errors": (
        *("BadHeaderError", "ConfigurationError", "KeyConflict", "MessageCancelled"),
        *("MessageError", "OutboxError", "OutboxUnavailable", "TooLargeError"),
        "UnsupportedFeature",
    ),
    "mail.lifecycle": ("State",),
    "mail.lint": ("Finding", "Severity"),
    "mail.message": ("Attachment", "Invitation"),
    "mail.outcome": ("Accepted", "Deferred", "Refused", "Unclear"),
    "mail.submission": ("Dsn", "Receipt", "Submission"),
    "outbox.joined": ("include_object",),
    "outbox.schedule": ("Priority",),
    "outbox.status": ("Status",),
    "version": ("__version__",),
    "wire.oauth2": ("GoogleToken", "Microsoft365Token"),
}
_MODULES = {"outbox.migrations": ("migrations",)}  # which are asked for as they are
_PLACE = {name: place for place, names in (_PLACES | _MODULES).items() for name in names}


def __getattr__(name: str) -> Any:
    place = _PLACE.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    value = import_module(f"flask_outbox.{place}")
    if place not in _MODULES:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACE} - {"OutboxMailUtil"})


# Without OutboxMailUtil, which needs Flask-Security: ``import *`` and whoever walks over ``dir()``
# would ask for it.
__all__ = [
    "Accepted", "Address", "Attachment", "BadHeaderError", "ConfigurationError", "Connection",
    "Deferred", "Dsn", "Finding", "FlaskMailUnicodeDecodeError", "GoogleToken", "Invitation",
    "KeyConflict", "Mail", "Message", "MessageCancelled", "MessageError", "Microsoft365Token",
    "OutboxError", "OutboxUnavailable", "Priority", "Receipt", "Refused", "SendError", "Severity",
    "State", "Status", "Submission", "TooLargeError", "Unclear", "UnsupportedFeature", "_Mail",
    "_MailMixin", "__version__", "_has_newline", "email_dispatched", "force_text", "include_object",
    "install_as_flask_mail", "message_deferred", "message_failed", "message_queued",
    "message_sent", "migrations", "route_paused", "route_resumed", "sanitize_address",
    "sanitize_addresses", "sanitize_subject", "signals", "worker_lost",
]  # fmt: skip
