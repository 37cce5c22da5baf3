"""flask outbox dkim-keygen: what it makes signs, what it prints is what receivers look up."""

import os
import re
import stat
import sys

import pytest
from flask import Flask

from dkim_judges import OpenDkim, dkimpy
from flask_outbox import Mail, Message
from flask_outbox.transports.dkim_key import DkimKey, private_key
from hostile import Hostile


@pytest.fixture
def keygen(tmp_path):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config["MAIL_TRANSPORT"] = "memory:"
    Mail(app)

    def run(*options, status=0):
        result = app.test_cli_runner().invoke(args=["outbox", "dkim-keygen", *options])
        assert result.exit_code == status, result.output
        return result.output

    return run


def published(printed):
    """Read the record as a name server reads a zone file."""
    [(name, strings)] = re.findall(
        r"^(\S+)\. IN TXT \(\n(.*?)^\)$", printed, re.MULTILINE | re.DOTALL
    )
    parts = re.findall(r'"([^"]*)"', strings)
    assert all(len(each) <= 255 for each in parts)
    return {name: "".join(parts)}


def settings(printed):
    return dict(line.split("=", 1) for line in printed.splitlines() if line.startswith("MAIL_"))


@pytest.mark.parametrize(
    ("options", "bits"),
    [((), 2048), (("--type", "rsa", "--bits", "3072"), 3072), (("--type", "ed25519"), 256)],
)
def test_a_mail_that_is_sent_with_what_it_prints_holds_by_what_it_prints(
    keygen, tmp_path, options, bits
):
    file = tmp_path / "key.pem"
    old = os.umask(0)
    try:
        printed = keygen("--domain", "Example.com", "--out", str(file), *options)
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [line for line in file.read_text().splitlines()[1:-1] if line in printed]
    read = private_key(file.read_text(), "FILE")
    assert DkimKey("example.com", "outbox", read).bits == bits
    with Hostile() as server:
        app = Flask("shop")
        app.config.update(MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="shop@example.com")
        app.config.update(settings(printed))
        mail = Mail(app)
        with app.app_context():
            mail.send(Message("hi", ["ada@example.org"], "text"))
        content = server.accepted[0].content
    records = published(printed)
    assert list(records) == ["outbox._domainkey.example.com"]
    assert dkimpy(content, records) == [True]
    assert OpenDkim(tmp_path / "judge", records).holds([content]) == [True]
    assert ("Sign by an RSA key, too" in printed) is ("ed25519" in options)


def test_a_file_that_is_there_is_never_overwritten(keygen, tmp_path):
    file = tmp_path / "key.pem"
    file.write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("key.pem", "link"):
        told = keygen("--domain", "example.com", "--out", str(tmp_path / name), status=1)
        assert "exists already" in told
    assert file.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--out", "k"), "Missing option '--domain'"),
        (("--domain", "example.com"), "Missing option '--out'"),
        (("--domain", "a b", "--out", "k"), "'--domain': It must be a domain"),
        (("--domain", "", "--out", "k"), "'--domain': It must not be empty"),
        (("--domain", "a.test", "--selector", "a_b", "--out", "k"), "'--selector': It must be"),
        (("--domain", "a.test", "--bits", "1024", "--out", "k"), "2048<=x<=4096"),
        (("--domain", "a.test", "--type", "ed25519", "--bits", "2048", "--out", "k"), "one size"),
    ],
)
def test_called_wrongly_it_says_so_and_makes_nothing(keygen, tmp_path, monkeypatch, options, why):
    monkeypatch.chdir(tmp_path)
    assert why in keygen(*options, status=2)
    assert not (tmp_path / "k").exists()


def test_a_file_that_cannot_be_written_is_told(keygen, tmp_path):
    told = keygen("--domain", "a.test", "--out", str(tmp_path / "no" / "key.pem"), status=1)
    assert "cannot be written: No such file or directory." in told


def test_without_the_package_it_names_what_installs_it(keygen, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    told = keygen("--domain", "a.test", "--out", str(tmp_path / "key.pem"), status=1)
    assert "pip install 'flask-outbox[crypto]'" in told
    assert not (tmp_path / "key.pem").exists()


def test_the_key_is_not_printed_nor_written_to_a_file_called_dash(keygen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = keygen("--domain", "example.com", "--out", "-", status=2)
    assert "name a file" in output
    assert "PRIVATE" not in output
    assert list(tmp_path.iterdir()) == []
