"""What an app says of its mail at rest: by which keys it is encrypted, and how long it is kept."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from flask import Flask

from flask_outbox.app.settings import Settings

if TYPE_CHECKING:
    from flask_outbox.outbox.encryption import Keyring
    from flask_outbox.worker.retention import Retention


def keyring(app: Flask, settings: Settings) -> "Keyring":
    """Give the keys: those of MAIL_OUTBOX_KEYS, and those derived from the app's secrets."""
    from flask_outbox.outbox.encryption import Keyring  # noqa: PLC0415  made on first use

    return Keyring(settings.outbox_keys, lambda: _secrets(app))


def retention(settings: Settings) -> "Retention":
    """Say what workers forget in passing."""
    from flask_outbox.outbox.prune import Keep  # noqa: PLC0415  in workers only
    from flask_outbox.worker.retention import Retention  # noqa: PLC0415  in workers only

    return Retention(Keep(settings.keep_content, settings.keep_rows))


def _secrets(app: Flask) -> Iterator[bytes]:
    """Give SECRET_KEY and SECRET_KEY_FALLBACKS as they are now."""
    config = cast("Mapping[str, Any]", app.config)
    before: Iterable[str | bytes] = config.get("SECRET_KEY_FALLBACKS") or ()
    for secret in (app.secret_key, *before):
        if secret:
            yield secret.encode() if isinstance(secret, str) else bytes(secret)
