"""The content of sensitive mail is encrypted at rest: Fernet, under keys that can be rotated.

The first key encrypts and all of them decrypt. Who reads the database, or a copy of it, reads no
reset link; who may write to it can still have mail sent, and is not kept out by this.

``cryptography`` is imported when something sensitive comes, and not before.
"""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.submission import Submission

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

FERNET = "fernet"  # the word in the column ``cipher``

NO_KEY = (
    "A sensitive mail is kept encrypted, and there is no key for it: set SECRET_KEY, or"
    " MAIL_OUTBOX_KEYS."
)
NOT_INSTALLED = (
    "A sensitive mail is kept encrypted, which takes a package: pip install 'flask-outbox[crypto]'"
)
KEY_IS_GONE = (
    "Its content is encrypted with a key that is not here: put it back into MAIL_OUTBOX_KEYS (or"
    " into SECRET_KEY_FALLBACKS, if it was derived from SECRET_KEY)."
)


class Keyring:
    """Fernet keys, and behind them those that are derived from an app's secrets.

    ``secrets`` is asked each time, since an app may set its SECRET_KEY late. What was encrypted
    under a derived key is readable after keys were named, too.
    """

    def __init__(
        self, keys: Iterable[str] = (), secrets: Callable[[], Iterable[bytes]] = tuple
    ) -> None:
        self._keys = tuple(keys)
        self._secrets = secrets
        self._made: tuple[tuple[str, ...], MultiFernet] | None = None

    def encrypt(self, content: bytes, now: float) -> bytes:
        """Encrypt; raise ConfigurationError where there is no key, or no ``cryptography``.

        The token says when it was made.
        """
        return self._fernet().encrypt_at_time(content, int(now))

    def decrypt(self, content: bytes, cipher: str | None) -> bytes:
        """Decrypt what the column ``cipher`` says is encrypted; raise ConfigurationError."""
        if cipher is None:
            return content
        fernet = self._fernet()
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  see above

        try:
            if cipher == FERNET:
                return fernet.decrypt(content)
        except InvalidToken:
            pass
        raise ConfigurationError(KEY_IS_GONE)

    def opened(self, submission: Submission, cipher: str | None) -> Submission:
        """Give the submission with its content readable; raise ConfigurationError."""
        if cipher is None:
            return submission
        return replace(submission, content=self.decrypt(submission.content, cipher))

    def marks(self, fingerprint: str) -> list[str]:
        """Hash a fingerprint under each key, so that nobody finds a login code by trying.

        The first is to be stored; any of them may have been.
        """
        if not fingerprint:
            return [fingerprint]
        return [
            hmac.new(key.encode(), b"flask-outbox: " + fingerprint.encode(), "sha256").hexdigest()
            for key in self._all()
        ]

    def _all(self) -> tuple[str, ...]:
        keys = (*self._keys, *map(derived, self._secrets()))
        if not keys:
            raise ConfigurationError(NO_KEY)
        return keys

    def _fernet(self) -> "MultiFernet":
        keys, made = self._all(), self._made
        if made is None or made[0] != keys:
            try:
                from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415  see above
            except ImportError as error:
                raise ConfigurationError(NOT_INSTALLED) from error
            made = self._made = keys, MultiFernet([Fernet(key) for key in keys])
        return made[1]


NO_KEYS = Keyring()


def derived(secret: bytes) -> str:
    """Derive a Fernet key from a secret: HKDF-SHA256 (RFC 5869), no salt, one block."""
    extracted = hmac.digest(bytes(32), secret, "sha256")
    expanded = hmac.digest(extracted, b"flask-outbox: content at rest\x01", "sha256")
    return urlsafe_b64encode(expanded).decode()
