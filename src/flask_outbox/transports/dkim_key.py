"""What a domain signs with, and what it publishes in DNS for it: RFC 6376, RFC 8301, RFC 8463."""

from base64 import b64encode
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from flask_outbox.mail.errors import ConfigurationError

WEAKEST, WEAK = 1024, 2048  # bits of RSA: must have (RFC 8301 section 3.2), should have

_PADDING, _HASHED = PKCS1v15(), Prehashed(SHA256())

Private = Ed25519PrivateKey | RSAPrivateKey


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A private key, and where its public half is published: ``selector._domainkey.domain``.

    ``domain`` in lower-case A-labels, as submissions have it. Both kinds of signature are the same
    each time for the same octets.
    """

    domain: str
    selector: str
    private: Private = field(repr=False)

    @property
    def algorithm(self) -> str:
        """Its name in ``a=``."""
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"

    @property
    def bits(self) -> int:
        """Its size."""
        return self.private.key_size if isinstance(self.private, RSAPrivateKey) else 256

    @property
    def name(self) -> str:
        """Where receivers look for the record (RFC 6376 section 3.6.2.1)."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The TXT record (RFC 6376 section 3.6.1, RFC 8463 section 4)."""
        public = self.private.public_key()
        if isinstance(self.private, RSAPrivateKey):
            kind = "rsa"
            octets = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            kind = "ed25519"
            octets = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return f"v=DKIM1; k={kind}; p={b64encode(octets).decode()}"

    def signature(self, digest: bytes) -> bytes:
        """Sign a SHA-256; with Ed25519 the digest is the message (RFC 8463 section 3)."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, _PADDING, _HASHED)
        return self.private.sign(digest)


def private_key(pem: str, setting: str) -> Private:
    """Read a private key, or raise ConfigurationError that names the setting and the fix."""
    if "\n" not in pem:  # as it has to be written in many an environment file
        pem = pem.replace("\\n", "\n")
    try:
        private = load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise ConfigurationError(
            f"{setting} must be a key without a password: remove it by openssl pkey -in FILE, and"
            " keep the key in a file that only the app may read."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, RSAPrivateKey | Ed25519PrivateKey):
        raise ConfigurationError(
            f"{setting} must be the private key itself, RSA or Ed25519, as PEM: it begins with"
            " -----BEGIN PRIVATE KEY-----. This makes one: flask outbox dkim-keygen"
        )
    if isinstance(private, RSAPrivateKey) and private.key_size < WEAKEST:
        raise ConfigurationError(
            f"{setting} must be an RSA key of {WEAKEST} bits or more, better of {WEAK}; it has"
            f" {private.key_size}, which receivers do not accept. This makes one: flask outbox"
            " dkim-keygen"
        )
    return private
