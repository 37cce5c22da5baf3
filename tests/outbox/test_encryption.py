"""Keys: named ones, derived ones, and none; and who pays for cryptography."""

import subprocess
import sys

import pytest
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.outbox.encryption import Keyring, derived
from outbox_mail import EPOCH, KEY, OLD_KEY

SECRET = b"the app's SECRET_KEY"
TEXT = b"click here: https://example.com/reset/4711"


def test_a_key_is_derived_as_rfc_5869_says():
    hkdf = HKDF(SHA256(), 32, salt=None, info=b"flask-outbox: content at rest")
    key = hkdf.derive(SECRET)
    token = Keyring(secrets=lambda: [SECRET]).encrypt(TEXT, EPOCH)
    import base64  # noqa: PLC0415

    assert Fernet(base64.urlsafe_b64encode(key)).decrypt(token) == TEXT


def test_the_first_key_encrypts():
    token = Keyring([KEY, OLD_KEY], lambda: [SECRET]).encrypt(TEXT, EPOCH)
    assert Fernet(KEY).decrypt(token) == TEXT
    assert Fernet(KEY).extract_timestamp(token) == EPOCH


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_any_key_decrypts_the_derived_ones_too(place):
    keys = [KEY, OLD_KEY, derived(SECRET), derived(b"an older one")]
    token = Fernet(keys[place]).encrypt(TEXT)
    ring = Keyring([KEY, OLD_KEY], lambda: [SECRET, b"an older one"])
    assert ring.decrypt(token, "fernet") == TEXT


def test_a_secret_that_is_set_late_or_replaced_counts_at_once():
    secrets = []
    ring = Keyring(secrets=lambda: secrets)
    with pytest.raises(ConfigurationError, match="SECRET_KEY, or MAIL_OUTBOX_KEYS"):
        ring.encrypt(TEXT, EPOCH)
    secrets.append(SECRET)
    old = ring.encrypt(TEXT, EPOCH)
    secrets.insert(0, b"another")
    new = ring.encrypt(TEXT, EPOCH)
    assert ring.decrypt(old, "fernet") == ring.decrypt(new, "fernet") == TEXT
    assert MultiFernet([Fernet(derived(b"another"))]).decrypt(new) == TEXT
    secrets.pop()
    with pytest.raises(ConfigurationError, match="MAIL_OUTBOX_KEYS"):
        ring.decrypt(old, "fernet")


@pytest.mark.parametrize("change", [lambda it: it[:-1], lambda it: b"x" + it[1:], lambda _: b""])
def test_what_was_changed_on_the_disk_is_not_decrypted_and_not_quoted(change):
    ring = Keyring([KEY])
    with pytest.raises(ConfigurationError) as caught:
        ring.decrypt(change(ring.encrypt(TEXT, EPOCH)), "fernet")
    assert KEY not in str(caught.value)
    assert "reset" not in str(caught.value)


def test_no_key_is_shown_by_a_repr():
    assert KEY not in repr(Keyring([KEY]))


def test_marks_are_others_for_each_key_and_each_fingerprint():
    ring = Keyring([KEY, OLD_KEY])
    assert ring.marks("a")[0] == Keyring([KEY]).marks("a")[0]
    assert len({*ring.marks("a"), *ring.marks("b")}) == 4
    assert ring.marks("") == [""]


def test_cryptography_is_imported_when_something_sensitive_comes_and_not_before():
    program = """
import sys
from flask_outbox.outbox.encryption import Keyring
from outbox_mail import KEYRING, a_submission, one, put, say
from flask_outbox.outbox.database import Outbox
from flask_outbox.mail.outcome import Accepted
outbox = Outbox("sqlite://", keyring=KEYRING)
put(outbox)
say(outbox, one(outbox), Accepted("250"))
assert "cryptography" not in sys.modules
put(outbox, a_submission(sensitive=True))
assert "cryptography" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr


def test_where_it_is_not_installed_the_error_says_what_to_install(monkeypatch):
    for name in [each for each in sys.modules if each.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'flask-outbox\[crypto\]'"):
        Keyring([KEY]).encrypt(TEXT, EPOCH)
