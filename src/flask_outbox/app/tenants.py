"""Transports that an app makes of a name when there is mail for it: one for each of its tenants."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from flask import Flask

from flask_outbox.app import starting
from flask_outbox.mail.errors import ConfigurationError, MessageError

if TYPE_CHECKING:
    from flask_outbox.transports.base import Transport

FRESH = 10.0  # seconds after which a name is asked for again, so that new credentials are used

# What is said of the app's settings, in words for a URL that no setting holds.
_WORDS = {
    "MAIL_PASSWORD is not set, nor MAIL_OAUTH2_TOKEN, but MAIL_USERNAME is": (
        "the URL has a user and no password; to log in by OAuth 2, give an Smtp with token="
    ),
    "MAIL_TRANSPORT": "the URL",
    "MAIL_SERVER": "the host",
    "MAIL_PORT": "the port",
}

LoadTransport = Callable[[str], object]


class Tenants:
    """Asks the app's loader, in its context, and keeps the answer for a short time."""

    def __init__(self, app: Flask, load: LoadTransport) -> None:
        self._app = app
        self._load = load
        self._loaded: dict[str, tuple[float, Transport]] = {}

    def __call__(self, name: str) -> "Transport":
        """Give the transport of a name; raise MessageError where the loader knows none."""
        now = time.monotonic()
        held = self._loaded.get(name)
        if held is not None and now - held[0] <= FRESH:
            return held[1]
        with starting.context(self._app):
            made = _made(name, self._load(name))
        self._loaded = {each: of for each, of in self._loaded.items() if now - of[0] <= FRESH}
        self._loaded[name] = now, made
        return made


def _of_a_url(text: str) -> str:
    """Say of a tenant's URL what would be said of the app's settings."""
    for said, word in _WORDS.items():
        text = text.replace(said, word)
    return text


def _made(name: str, value: object) -> "Transport":
    if value is None:
        raise MessageError(
            f"transport: {name!r} is not in MAIL_TRANSPORTS, nor does the loader"
            " that @mail.load_transport names know it."
        )
    if isinstance(value, str):
        from flask_outbox.transports.url import transport_from_url  # noqa: PLC0415  only for URLs

        try:
            return transport_from_url(value)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"@mail.load_transport gave for {name!r}: {_of_a_url(str(error))}"
            ) from None
    if not callable(getattr(value, "send", None)):
        raise ConfigurationError(
            "@mail.load_transport must give a URL, a transport or None, not"
            f" {type(value).__name__}."
        )
    return cast("Transport", value)
