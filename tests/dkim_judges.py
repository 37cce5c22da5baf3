"""Others' word on our signatures: dkimpy's, and OpenDKIM's. Neither asks a name server."""

import os
import re
import subprocess

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from flask_outbox.transports.dkim_key import DkimKey

RSA = DkimKey("example.com", "r", generate_private_key(65537, 2048))
ED = DkimKey("example.com", "e", Ed25519PrivateKey.generate())


def pem_of(key, form=PrivateFormat.PKCS8):
    return key.private.private_bytes(Encoding.PEM, form, NoEncryption()).decode()


def published(*keys):
    return {key.name: key.record for key in keys}


def dkimpy(content, records):
    """Tell of each signature whether it holds."""
    found = re.findall(rb"^dkim-signature[ \t]*:", header(content), re.MULTILINE | re.IGNORECASE)
    return [_dkimpy(content, records, at) for at in range(len(found))]


def _dkimpy(content, records, at):
    def look_up(name, timeout):
        return records.get(name.decode().removesuffix("."), "").encode()

    try:
        return dkim.DKIM(content).verify(idx=at, dnsfunc=look_up)
    except (dkim.DKIMException, ValueError):  # ValueError: base64 that is none
        return False


def header(content):
    return content.partition(b"\r\n\r\n")[0]


class OpenDkim:
    """Debian's filter in its test mode, with keys from a file."""

    def __init__(self, folder, records):
        self._folder = folder
        folder.mkdir()
        keys = "".join(f"{name} {record}\n" for name, record in records.items())
        (folder / "keys").write_text(keys)
        (folder / "conf").write_text(f"Mode v\nStrictTestMode yes\nTestPublicKeys {folder}/keys\n")

    def passes(self, content):
        """Count the signatures that hold."""
        return self._run(self._written([content]), "-vvv").stdout.count("dkim=pass")

    def holds(self, contents):
        """Tell of each mail whether its signature, the only one, holds."""
        files = self._written(contents)
        held: set[str] = set()
        ahead = files
        while ahead:
            done = self._run(ahead)  # of a mail that has no From it says nothing
            named = re.findall(
                r"^opendkim: (\d+\.eml): (.*)$", done.stdout + done.stderr, re.MULTILINE
            )
            held.update(name for name, verdict in named if verdict.endswith(" succeeded"))
            if done.returncode == 0:
                break
            assert done.returncode in {os.EX_DATAERR, os.EX_SOFTWARE}, done.stderr
            stopped = named[-1][0] if named else ahead[0]  # at what is no mail
            ahead = ahead[ahead.index(stopped) + 1 :]
        return [each in held for each in files]

    def _written(self, contents):
        for at, content in enumerate(contents):
            (self._folder / f"{at}.eml").write_bytes(content)
        return [f"{at}.eml" for at in range(len(contents))]

    def _run(self, files, *options):
        command = ["/usr/sbin/opendkim", "-x", "conf", *options, "-t", ",".join(files)]
        return subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, timeout=30, check=False
        )
