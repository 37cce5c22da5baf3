"""DKIM's keys: what is taken, what is refused and how, and what goes into DNS."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from dkim_judges import ED, RSA, pem_of
from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.transports.dkim_key import DkimKey, private_key

# Made for this test alone: cryptography makes none that small.
RSA_768 = """-----BEGIN RSA PRIVATE KEY-----
MIIByQIBAAJhALfgAiJN2mQ/EBsUgNf3YSN50JeItlEwZ3eu7Vz9HgrkCq8oro2J
zMRQwnyS22T4Qwh+U5zMObWFM3zY9vNyPqObM30DzsJ18x4JzH+mBk8LWrjuUPSq
VhQ0QMP/NsQbVwIDAQABAmA8dN6+wLJJu6JkBP3IBIJf07GN4VlwoGWkqFNK+75g
/lG0/b9GskQtWBBaPT79l9KDxhNStPKFytxmq8+B9ovBZv/q34GkxhUWHWiRV0wg
uIgsTEG5K3ncDu87HayiPSECMQDeLf28NlTJsZufqHPRGsPmHAVLENlQs7MJWfFQ
F6jM8X53D9hpRKBnJxXf0PPLtjMCMQDT3VfpU4oG5cScgoJOIebmhd2HQe8St+p9
3t70cMoMPTS7qY4aO86VO8t9ni2uek0CMCmFvt3l6YKoRsVX3g0+S049/l9BDtwe
OV+OB6NISKvEljX6KB/ES5X7oALsMiPoMQIwf+32yJBGFzYky3DO6Aj2mRoaEzNP
/hiKAqlSLX3xswQ+VFbk1JhqfJhXnqml4eY9AjAVgS6ojXRBFiNfOMg4ZO5C0ikm
6ZSi0epNzHEBdnkHcfc4NoMNNfx+Z+PKawUj/NQ=
-----END RSA PRIVATE KEY-----
"""


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize("written", [str, lambda pem: pem.strip().replace("\n", "\\n")])
def test_keys_are_read_in_both_forms_of_pem_also_from_one_line(form, written):
    read = private_key(written(pem_of(RSA, form)), "KEY")
    assert read.private_numbers() == RSA.private.private_numbers()


def test_an_ed25519_key_is_read():
    read = private_key(pem_of(ED), "KEY")
    assert read.private_bytes_raw() == ED.private.private_bytes_raw()


def other(private):
    return pem_of(DkimKey("example.com", "x", private))


REFUSED = {
    "nothing": ("", "the private key itself.*PEM"),
    "no PEM": ("canary", "the private key itself.*PEM"),
    "not ASCII": ("canäry", "the private key itself.*PEM"),
    "half a PEM": (pem_of(RSA)[:300], "the private key itself.*PEM"),
    "broken": (RSA_768.replace("A", "B"), "the private key itself.*PEM"),
    "the public half": (
        RSA.private.public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        "the private key itself.*PEM",
    ),
    "another kind": (other(ec.generate_private_key(ec.SECP256R1())), "RSA or Ed25519"),
    "yet another": (other(ed448.Ed448PrivateKey.generate()), "RSA or Ed25519"),
    "with a password": (
        ED.private.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"canary")
        ).decode(),
        "without a password.*openssl pkey",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_key_for_dkim_is_refused_by_its_setting_and_never_repeated(name):
    pem, why = REFUSED[name]
    with pytest.raises(ConfigurationError, match=rf"(?s)^MAIL_DKIM_KEY must be .*{why}") as caught:
        private_key(pem, "MAIL_DKIM_KEY")
    told = f"{caught.value}{caught.value!r}{caught.value.__cause__}"
    assert "canary" not in told
    assert not [line for line in pem.splitlines()[1:-1] if line in told]


def test_rsa_below_1024_bits_is_refused():
    with pytest.raises(ConfigurationError, match=r"^KEY must be .* of 1024 bits.*it has 768.*dkim"):
        private_key(RSA_768, "KEY")


def test_the_record_and_where_it_stands():
    assert RSA.name == "r._domainkey.example.com"
    assert RSA.record.startswith("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A")
    assert (RSA.bits, ED.bits) == (2048, 256)
    assert ED.record.startswith("v=DKIM1; k=ed25519; p=")
    assert len(ED.record) == 22 + 44


def test_no_repr_shows_the_key():
    for key in (RSA, ED):
        shown = f"{key!r} {key} {[key]!r}"
        assert "private" not in shown
        assert "Private" not in shown
        assert key.selector in shown
