"""STARTTLS and TLS from the first byte: whom a line trusts, and what breaks it."""

import socket
import ssl
from pathlib import Path
from time import monotonic

import pytest
from cryptography.hazmat.primitives import serialization

import certificates
from flask_outbox.mail.errors import TlsError
from flask_outbox.mail.exchange import Read, SmtpReply, StartTls, Tls, Write
from hostile import Hostile, after, hang_up, polite, raw, reset, say, stall, then
from wire_drivers import Tried

LIMIT = 0.2
BOUND = 2.0
OURS = Tls(ca_file=certificates.ca_file())
WAYS = ["STARTTLS", "implicit"]


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


def server_with(kind="good", way="STARTTLS", script=None, context=None):
    return Hostile(
        script or {},
        tls=context or certificates.server_context(kind),
        implicit=way == "implicit",
    )


def go(  # noqa: PLR0913  the two ends, and what they do
    driver, server, tls, way, *, steps=(b"EHLO x\r\n",), seconds=10.0
):
    tried = Tried()
    if way == "implicit":
        driver.carry(tried.talk(server.port, steps, tls=tls, seconds=seconds))
    else:
        first = [b"STARTTLS\r\n", StartTls(tls, "localhost", seconds)]
        driver.carry(tried.talk(server.port, [*first, *steps]))
    return tried


@pytest.mark.parametrize(
    "tls",
    [
        OURS,
        Tls(verify=False),
        Tls(fingerprint=certificates.fingerprint()),
        Tls(fingerprint=bytes.fromhex(certificates.fingerprint()).hex(":").upper()),
    ],
    ids=["own authority", "unverified", "pinned", "pinned, as openssl prints it"],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_line_is_made_private_and_used(driver, way, tls, version):
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    with server_with(way=way, context=context) as server:
        tried = go(driver, server, tls, way, steps=[b"EHLO x\r\n", b"QUIT\r\n"])
    assert tried.error is None
    assert tried.codes[-2:] == [250, 221]
    assert "STARTTLS" not in tried.replies[-2].lines


def test_a_pin_trusts_what_no_authority_would(driver, way):
    pinned = Tls(fingerprint=certificates.fingerprint("expired"))
    with server_with("expired", way) as server:
        assert go(driver, server, pinned, way).error is None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("expired", "certificate has expired"),
        ("of another name", "Hostname mismatch"),
        ("of a stranger", "unable to get local issuer certificate"),
        ("with the name as CN only", "Hostname mismatch"),
    ],
)
def test_a_certificate_that_is_not_to_be_trusted_ends_it_before_a_word(driver, way, kind, said):
    with server_with(kind, way) as server:
        tried = go(driver, server, OURS, way)
    assert isinstance(tried.error, TlsError)
    assert said in str(tried.error)
    assert "MAIL_TLS_CA_FILE" in str(tried.error)
    assert "SHA-256 fingerprint in MAIL_TLS_FINGERPRINT" in str(tried.error)
    assert b"EHLO x" not in server.heard


def test_without_an_authority_of_its_own_only_the_systems_are_trusted(driver, way):
    with server_with(way=way) as server:
        assert "not to be trusted" in str(go(driver, server, Tls(), way).error)


def test_another_certificate_than_the_pinned_one_is_refused_and_named(driver, way):
    pinned = Tls(fingerprint=certificates.fingerprint("expired"))
    with server_with(way=way) as server:
        tried = go(driver, server, pinned, way)
    assert isinstance(tried.error, TlsError)
    assert certificates.fingerprint() in str(tried.error)
    assert "MAIL_TLS_CA_FILE" in str(tried.error)
    assert b"EHLO x" not in server.heard


def test_a_pin_is_no_weaker_for_an_authority_that_vouches(driver, way):
    pinned = Tls(ca_file=certificates.ca_file(), fingerprint="00" * 32)
    with server_with(way=way) as server:
        assert "not the pinned one" in str(go(driver, server, pinned, way).error)


def test_what_is_older_than_tls_1_2_is_refused(driver, way):
    context = certificates.server_context()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with server_with(way=way, context=context) as server:
        tried = go(driver, server, OURS, way)
    assert isinstance(tried.error, TlsError)
    assert "TLS 1.2 or newer" in str(tried.error)


def test_a_handshake_that_stalls_is_given_up_in_time(driver):
    with server_with(script={"STARTTLS": then(say(b"220 go"), stall)}) as server:
        start = monotonic()
        tried = go(driver, server, OURS, "STARTTLS", seconds=LIMIT)
        assert LIMIT <= monotonic() - start < BOUND
    assert isinstance(tried.error, TlsError)
    assert "kept us waiting too long while the line was made private" in str(tried.error)


@pytest.mark.parametrize(
    "act", [reset, hang_up, raw(b"454 4.7.0 not now\r\n")], ids=["RST", "FIN", "plain text"]
)
def test_a_handshake_that_breaks_is_a_tls_error(driver, act):
    with server_with(script={"STARTTLS": then(say(b"220 go"), act)}) as server:
        tried = go(driver, server, OURS, "STARTTLS")
    assert isinstance(tried.error, TlsError)


def test_a_port_that_does_not_begin_with_tls_is_named_as_such(driver):
    with Hostile() as server:
        tried = go(driver, server, OURS, "implicit")
    assert isinstance(tried.error, TlsError)
    assert "MAIL_USE_SSL belongs to 465" in str(tried.error)


@pytest.mark.parametrize("extra", [b"250-AUTH PLAIN\r\n250 ok\r\n", b"2", b"250-"])
def test_plain_text_slipped_in_before_the_handshake_ends_it(driver, extra):
    injected = then(raw(b"220 go\r\n" + extra), lambda session: session.shake())
    with server_with(script={"STARTTLS": injected}) as server:
        tried = go(driver, server, OURS, "STARTTLS")
    assert isinstance(tried.error, TlsError)
    assert "went on talking before the TLS handshake" in str(tried.error)
    assert b"EHLO x" not in server.heard


def test_a_client_certificate_is_shown_to_who_asks(driver, way):
    context = certificates.server_context()
    certificates.CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ours = certificates.key_and_chain("client.pem")
    shown = Tls(ca_file=certificates.ca_file(), cert_file=ours)
    with server_with(way=way, context=context) as server:
        assert go(driver, server, shown, way).error is None
    with server_with(way=way, context=context) as server:
        assert go(driver, server, OURS, way).error is not None


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_not_there_or_no_certificate_is_named_by_its_setting(
    driver, way, field, tmp_path
):
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for path in (str(tmp_path / "missing.pem"), str(rubbish)):
        files = {"cert_file": certificates.key_and_chain("client.pem"), field: path}
        with server_with(way=way) as server:
            tried = go(driver, server, Tls(**files), way)
        assert isinstance(tried.error, TlsError)
        assert "MAIL_TLS_CA_FILE" in str(tried.error)


def test_an_encrypted_key_is_an_error_and_no_prompt(driver, tmp_path):
    leaf = certificates.certificate("good")
    plain = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"s3cret"),
        )
        + leaf.cert_chain_pems[0].bytes()
    )
    with server_with() as server:
        tried = go(driver, server, Tls(cert_file=str(locked)), "STARTTLS")
    assert "encrypted" in str(tried.error)


def test_an_authority_that_was_exchanged_in_its_file_counts_from_the_next_line_on(driver, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_bytes(Path(certificates.ca_file("stranger")).read_bytes())
    tls = Tls(ca_file=str(path))
    with server_with() as server:
        assert go(driver, server, tls, "STARTTLS").error
        path.write_bytes(Path(certificates.ca_file()).read_bytes())
        assert go(driver, server, tls, "STARTTLS").error is None


def test_ten_megabytes_arrive_whole_in_private(driver, way):
    content = (b"x" * 78 + b"\r\n") * 125_000
    steps = [b"DATA\r\n", Write([content, b".\r\n"], 20.0), Read(20.0)]
    with server_with(way=way) as server:
        tried = go(driver, server, OURS, way, steps=steps, seconds=20.0)
    assert tried.codes[-1] == 250
    assert server.accepted[0].content == content


def test_a_private_line_that_breaks_within_the_body_counts_what_may_have_gone(driver):
    content = (b"x" * 78 + b"\r\n") * 500_000
    last_word = then(say(b"552 5.3.4 too much"), reset)
    steps = [b"DATA\r\n", Write([content, b".\r\n"], 20.0), Read(20.0)]
    with server_with(script={"body": after(300_000, last_word)}) as server:
        tried = go(driver, server, OURS, "STARTTLS", steps=steps)
    assert tried.error.reply == SmtpReply(552, ("5.3.4 too much",))
    assert 300_000 <= tried.error.sent < len(content)


def test_a_record_that_was_tampered_with_breaks_the_line(driver):
    def forge(session):
        with socket.socket(fileno=session.sock.detach()) as bare:
            bare.sendall(b"\x17\x03\x03\x00\x20" + b"forged" * 5 + b"!!")
            bare.shutdown(socket.SHUT_WR)
            bare.recv(1)

    with server_with(script={"EHLO": forge}) as server:
        tried = go(driver, server, OURS, "STARTTLS")
    assert "gave up the privacy of the line" in str(tried.error)


def test_a_polite_end_of_tls_is_an_end_of_the_line(driver):
    def unwrap(session):
        with pytest.raises(OSError):  # noqa: PT011  we do not say goodbye
            session.sock.unwrap()

    with server_with(script={"EHLO": unwrap, "QUIT": polite}) as server:
        tried = go(driver, server, OURS, "STARTTLS")
    assert "closed the connection" in str(tried.error)
