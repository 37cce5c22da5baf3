"""Certificates for servers of the tests, good ones and bad ones; made once per process."""

import atexit
import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import trustme

CA = trustme.CA()
STRANGER = trustme.CA(organization_name="A stranger")


@cache
def folder() -> Path:
    """Where the files are; trustme hands out no paths."""
    path = Path(mkdtemp(prefix="flask-outbox-certificates-"))
    atexit.register(rmtree, path, ignore_errors=True)
    return path


@cache
def ca_file(name: str = "ours") -> str:
    """Name the file with the authority to trust."""
    path = folder() / f"{name}.pem"
    {"ours": CA, "stranger": STRANGER}[name].cert_pem.write_to_path(str(path))
    return str(path)


CERTIFICATES = {
    "good": lambda: CA.issue_cert("localhost", "127.0.0.1"),
    "expired": lambda: CA.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1)),
    "of another name": lambda: CA.issue_cert("elsewhere.test"),
    "of a stranger": lambda: STRANGER.issue_cert("localhost"),
    "with the name as CN only": lambda: CA.issue_cert("elsewhere.test", common_name="localhost"),
}


@cache
def certificate(kind: str) -> trustme.LeafCert:
    """Make it, or take the one made before."""
    return CERTIFICATES[kind]()


def server_context(kind: str = "good") -> ssl.SSLContext:
    """Make what a server with this certificate uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(kind).configure_cert(context)
    return context


def fingerprint(kind: str = "good") -> str:
    """Tell the SHA-256 of the certificate."""
    pem = certificate(kind).cert_chain_pems[0].bytes().decode()
    return sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def key_and_chain(name: str, kind: str = "good") -> str:
    """Write a certificate with its key into one file."""
    path = folder() / name
    certificate(kind).private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)
