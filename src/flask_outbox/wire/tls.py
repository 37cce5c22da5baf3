"""Privacy of a line, in memory: plain bytes on one side, TLS records on the other.

The drivers move the records themselves. So one implementation serves both; a deadline holds
during the handshake too; we know what went to the kernel; gevent and eventlet see nothing but
plain sockets; and a child after fork has nothing to say goodbye to.
"""

import hmac
import ssl
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from flask_outbox.mail.errors import TlsError
from flask_outbox.mail.exchange import Tls

_FIX = (
    "If that server is yours, name the authority that signed its certificate in MAIL_TLS_CA_FILE,"
    " or the certificate's SHA-256 fingerprint in MAIL_TLS_FINGERPRINT"
)
_HINTS = {
    "WRONG_VERSION_NUMBER": (
        "; it does not begin with TLS on this port: MAIL_USE_SSL belongs to 465,"
        " MAIL_USE_TLS to 587 and 25"
    ),
}


def check_files(tls: Tls) -> None:
    """Raise TlsError where the files that are named cannot be used: what a start-up asks."""
    _context_of(tls, "At the start")


class Privacy:
    """One TLS session over memory."""

    __slots__ = ("_in", "_object", "_out", "_tls", "_where", "ended")

    def __init__(self, tls: Tls, host: str, where: str) -> None:
        self._tls = tls
        self._where = where
        self.ended = False  # the far side has said that it will say no more
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        context = _context_of(tls, where)
        try:
            self._object = context.wrap_bio(self._in, self._out, server_hostname=host)
        except ValueError as error:  # an empty name, or one that starts with a dot
            raise TlsError(f"{where}: no certificate can be for this host name") from error

    def shake(self) -> bool:
        """Take the handshake as far as it goes; True once it is done and the far side trusted."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise TlsError(
                f"{self._where}: its certificate is not to be trusted ({error.verify_message})."
                f" {_FIX}"
            ) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            raise TlsError(f"{self._where} hung up in the middle of the TLS handshake") from error
        except ssl.SSLError as error:
            hint = _HINTS.get(error.reason or "", "")
            raise TlsError(
                f"{self._where}: TLS 1.2 or newer could not be agreed on ({reason(error)}){hint}"
            ) from error
        self._check_pin()
        return True

    def _check_pin(self) -> None:
        if self._tls.fingerprint is None:
            return
        shown = sha256(self._object.getpeercert(binary_form=True) or b"").hexdigest()
        pinned = self._tls.fingerprint.replace(":", "").lower()
        if not hmac.compare_digest(shown.encode(), pinned.encode()):
            raise TlsError(
                f"{self._where}: its certificate has the SHA-256 fingerprint {shown}, which is not"
                " the pinned one. If you renewed it, set MAIL_TLS_FINGERPRINT to the new one, or"
                " name its authority in MAIL_TLS_CA_FILE instead"
            )

    def records(self) -> bytes:
        """Take what is to go to the far side."""
        return self._out.read()

    def seal(self, piece: bytes | memoryview) -> bytes:
        """Turn plain bytes into records."""
        rest = memoryview(piece)
        while rest:
            rest = rest[self._object.write(rest) :]
        return self._out.read()

    def unseal(self, records: bytes) -> bytes:
        """Turn records into plain bytes, as far as they are whole; ssl.SSLError if forged."""
        self._in.write(records)
        plain = bytearray()
        try:
            while block := self._object.read(65_536):
                plain += block
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return bytes(plain)

    def feed(self, records: bytes) -> None:
        """Take in records of the handshake; none means that the far side has closed."""
        if records:
            self._in.write(records)
        else:
            self._in.write_eof()


def reason(error: OSError) -> str:
    """Put OpenSSL's word for it, or the system's, into a sentence."""
    return (
        (getattr(error, "reason", None) or error.strerror or "broken off").replace("_", " ").lower()
    )


def _context_of(tls: Tls, where: str) -> ssl.SSLContext:
    """Make the context, or take the one of last time while its files are the same."""
    files = (tls.ca_file, tls.cert_file, tls.key_file)
    try:
        stamps = tuple(Path(name).stat().st_mtime_ns if name else 0 for name in files)
        return _context(tls, stamps)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = reason(error) if isinstance(error, OSError) else "the key is encrypted"
        raise TlsError(
            f"{where}: the files of MAIL_TLS_CA_FILE, MAIL_TLS_CERT_FILE and MAIL_TLS_KEY_FILE"
            f" could not be used ({why})"
        ) from error


@lru_cache(maxsize=32)  # reading the system's authorities takes longer than a mail
def _context(tls: Tls, stamps: tuple[int, ...]) -> ssl.SSLContext:  # noqa: ARG001  renewed files, new context
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file, password=_nobody_to_ask)
    if tls.fingerprint is not None or not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _nobody_to_ask() -> NoReturn:
    """Stand in for OpenSSL's prompt, which would hold a worker up for ever."""
    raise ValueError("the key is encrypted")
