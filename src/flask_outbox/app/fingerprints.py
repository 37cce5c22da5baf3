"""What a worker shows of its configuration: two keyed hashes that are equal or not, and no more.

They are HMACs under a key that is derived from the SECRET_KEY, so that nobody who reads the outbox
can find a password by trying: the settings are hashed with their secrets in them. An app without
a SECRET_KEY shows no hash of its settings for that reason.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from flask import Flask

from flask_outbox.app import ways_out
from flask_outbox.app.flask_mail import _Mail
from flask_outbox.app.keys import KEYS
from flask_outbox.app.settings import Settings
from flask_outbox.mail.address import Address
from flask_outbox.wire.oauth2 import TokenSource

if TYPE_CHECKING:
    from flask_outbox.outbox.workers import Badge

# What is not about how a mail leaves: what was decided when it was composed and stands in its row,
# what only says how much one machine does at a time, and where the outbox is.
_NOT_COMPARED = frozenset(
    {
        *("MAIL_DEFAULT_SENDER", "MAIL_ASCII_ATTACHMENTS", "MAIL_BASE_URL", "MAIL_RETURN_PATH"),
        *("MAIL_REDIRECT_TO", "MAIL_ALLOW_ONLY", "MAIL_ATTACHMENT_ROOTS", "MAIL_TEXT_FROM_HTML"),
        *("MAIL_MAX_SIZE", "MAIL_MAX_RECIPIENTS", "MAIL_SUPPRESS_SEND", "MAIL_DEBUG"),
        *("MAIL_CONNECTIONS", "MAIL_GRACE", "MAIL_WORKER", "MAIL_OUTBOX_URL"),
    }
)


def badge(app: Flask, settings: Settings, state: _Mail) -> "Badge":
    """Say what this app runs with."""
    from flask_outbox.outbox.workers import Badge  # noqa: PLC0415  brings SQLAlchemy

    secret = app.secret_key
    key = secret.encode() if isinstance(secret, str) else bytes(secret or b"")
    return Badge(
        secret=_hash(key, "the same SECRET_KEY", b""),
        settings=_hash(key, "settings", _written(settings, state)) if key else None,
    )


def _hash(key: bytes, purpose: str, what: bytes) -> str:
    derived = hmac.digest(key, f"flask-outbox: {purpose}".encode(), hashlib.sha256)
    return hmac.new(derived, what, hashlib.sha256).hexdigest()


def _written(settings: Settings, state: _Mail) -> bytes:
    """Write down whatever decides how mail leaves, in one way."""
    names = (key.removeprefix("MAIL_").lower() for key in sorted(KEYS.keys() - _NOT_COMPARED))
    values = {name: _plain(getattr(settings, name)) for name in names}
    values["live"] = _plain(ways_out.live(state))
    return json.dumps(values, sort_keys=True).encode()


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, Mapping):
        named = cast("Mapping[object, object]", value)
        return {str(name): _plain(each) for name, each in named.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in cast("list[object] | tuple[object, ...]", value)]
    if isinstance(value, TokenSource):
        return [value.endpoint, value.form]
    # A transport or a function of the app's own: what is in it is not ours to read. Nor is the name
    # of its module: `python shop.py` has it in another one than `flask --app shop`.
    kind = value if isinstance(value, type) or callable(value) else type(value)
    return getattr(kind, "__qualname__", "")
