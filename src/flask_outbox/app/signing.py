"""By which keys an app's mail is signed: MAIL_DKIM_*."""

import logging
from typing import TYPE_CHECKING

from flask_outbox.app.settings import Settings
from flask_outbox.mail.errors import ConfigurationError

if TYPE_CHECKING:
    from flask_outbox.transports.dkim import Keys

log = logging.getLogger("flask_outbox")

NOT_INSTALLED = "MAIL_DKIM_KEY: to sign mail takes a package: pip install 'flask-outbox[crypto]'"


def is_on(settings: Settings) -> bool:
    """Tell whether anything is signed."""
    return bool(settings.dkim_key or settings.dkim_keys)


def load(settings: Settings) -> "Keys":
    """Load the keys; raise ConfigurationError naming the setting and the fix."""
    try:
        from flask_outbox.transports.dkim import by_domain  # noqa: PLC0415  brings cryptography
        from flask_outbox.transports.dkim_key import (  # noqa: PLC0415  the same
            WEAK,
            DkimKey,
            private_key,
        )
    except ImportError as error:
        raise ConfigurationError(NOT_INSTALLED) from error
    loaded: dict[str, DkimKey] = {}
    for setting, (domain, selector, pem) in _given(settings).items():
        key = DkimKey(domain, selector, private_key(pem, setting))
        if key.algorithm == "rsa-sha256" and key.bits < WEAK:
            log.warning(
                "%s is an RSA key of %d bits, which is weak: make one of %d bits by"
                " `flask outbox dkim-keygen`, under another selector.",
                setting,
                key.bits,
                WEAK,
            )
        if key.name in loaded:
            raise ConfigurationError(
                f"{setting} has the domain and the selector of another key: only one record can be"
                f" published as {key.name}. Give one of them another selector."
            )
        loaded[key.name] = key
    return by_domain(loaded.values())


def _given(settings: Settings) -> dict[str, tuple[str, str, str]]:
    """Give what is set, by the name of its setting."""
    given = {
        f"MAIL_DKIM_KEYS[{place}]['key']": each for place, each in enumerate(settings.dkim_keys)
    }
    if settings.dkim_domain and settings.dkim_selector and settings.dkim_key:
        one = (settings.dkim_domain, settings.dkim_selector, settings.dkim_key)
        return {"MAIL_DKIM_KEY": one, **given}
    return given
