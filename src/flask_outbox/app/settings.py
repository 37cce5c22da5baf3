"""MAIL_* → one frozen Settings, read once.

``keys.py`` has the whole list. A value from the environment is a string, and is parsed.
A key that holds a secret may be given as ``<KEY>_FILE``, the name of a file whose content it is.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flask_outbox.app import reading
from flask_outbox.app.keys import KEYS
from flask_outbox.app.reading_dkim import Given
from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import ConfigurationError

log = logging.getLogger("flask_outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the MAIL_* keys come to; each field is its key in small letters."""

    server: str
    port: int
    use_tls: bool
    use_ssl: bool
    username: str | None
    password: str | None = field(repr=False)
    default_sender: str | tuple[str, str] | None
    debug: int
    max_emails: int | None
    suppress_send: bool | None  # None: as app.testing says at the time of sending
    ascii_attachments: bool
    transport: Any = field(repr=False)
    transports: Mapping[str, Any] = field(repr=False)
    oauth2_token: Callable[[], str] | None = field(repr=False)
    tls_ca_file: str | None
    tls_fingerprint: str | None
    tls_cert_file: str | None
    tls_key_file: str | None
    ehlo_name: str | None
    timeout: float | None
    base_url: str | None
    return_path: Address | None
    redirect_to: tuple[Address, ...]
    allow_only: tuple[str, ...]
    attachment_roots: tuple[str, ...]
    text_from_html: bool
    max_size: int | None
    max_recipients: int | None
    dkim_domain: str | None
    dkim_selector: str | None
    dkim_key: str | None = field(repr=False)
    dkim_keys: tuple[Given, ...] = field(repr=False)
    outbox_url: str | None = field(repr=False)
    outbox_keys: tuple[str, ...] = field(repr=False)
    worker: str
    connections: int
    lease: float
    grace: float
    give_up: float
    max_unclear: int
    keep_content: float | None
    keep_rows: float | None
    rate: Mapping[str, float]  # a second, by transport
    domain_rates: Mapping[str, float]
    concurrency: Mapping[str, int]
    domain_concurrency: Mapping[str, int]
    warm_up: Mapping[str, float]  # each domain's first midnight, UNIX seconds
    given: frozenset[str] = frozenset()  # the keys that the app set itself


def _from_file(key: str, name: object) -> str:
    try:
        return Path(str(name)).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{key}_FILE must name a file that can be read: {type(error).__name__}."
        ) from None


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the app's own values, secrets from files included."""
    given = {key: config[key] for key in KEYS if key in config}
    for key, how in KEYS.items():
        name = config.get(f"{key}_FILE") if how.secret else None
        if name:
            if given.get(key):
                raise ConfigurationError(f"{key} and {key}_FILE are both set: keep one of them.")
            given[key] = _from_file(key, name)
    return given


def unknown(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Give the MAIL_* keys that mean nothing to us, and what each was perhaps meant to be."""
    known = {*KEYS, *(f"{key}_FILE" for key, how in KEYS.items() if how.secret)}
    for key in config:
        if key.startswith("MAIL_") and key not in known:
            close = get_close_matches(key, known, n=1, cutoff=0.8)
            yield key, close[0] if close else ""


def warn_of_unknown(config: Mapping[str, Any]) -> None:
    """Log them."""
    for key, close in unknown(config):
        hint = f": did you mean {close}?" if close else "."
        log.warning("%s is not a setting of Flask-Outbox%s", key, hint)


def read(config: Mapping[str, Any], *, debug: int = 0) -> Settings:
    """Read the settings, or raise ConfigurationError naming the key and the fix."""
    given = _given(config)
    values: dict[str, Any] = {}
    for key, how in KEYS.items():
        value = given.get(key, how.default)
        try:
            parsed = how.parse(key, value) if key in given else value
        except (json.JSONDecodeError, OverflowError):
            raise reading.wrong(key, "well-formed") from None
        values[key.removeprefix("MAIL_").lower()] = parsed
    if values["debug"] is None:
        values["debug"] = int(debug)
    settings = Settings(**values, given=frozenset(given))
    if settings.use_tls and settings.use_ssl:
        raise ConfigurationError(
            "MAIL_USE_TLS and MAIL_USE_SSL are both set: keep MAIL_USE_TLS for STARTTLS (port 587),"
            " or MAIL_USE_SSL for TLS from the first byte (port 465)."
        )
    if settings.transport is not None and "default" in settings.transports:
        raise ConfigurationError(
            "MAIL_TRANSPORT and MAIL_TRANSPORTS['default'] are the same way out: keep one of them."
        )
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        raise ConfigurationError(
            "MAIL_TLS_CERT_FILE and MAIL_TLS_KEY_FILE belong together: set both or neither."
        )
    dkim = (settings.dkim_domain, settings.dkim_selector, settings.dkim_key)
    if any(dkim) and not all(dkim):
        raise ConfigurationError(
            "MAIL_DKIM_DOMAIN, MAIL_DKIM_SELECTOR and MAIL_DKIM_KEY (or MAIL_DKIM_KEY_FILE) belong"
            " together: set all three or none."
        )
    return settings
