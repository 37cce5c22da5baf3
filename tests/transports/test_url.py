"""A transport as a URL."""

from dataclasses import replace

import pytest

from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.exchange import Tls
from flask_outbox.transports.local import Console, Folder, Memory, Null
from flask_outbox.transports.postmark import Postmark
from flask_outbox.transports.resend import Resend
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.smtp_login import Security
from flask_outbox.transports.url import Url, transport_from_url


def door(url):
    transport = transport_from_url(url)
    assert isinstance(transport, Smtp)
    return transport._door


@pytest.mark.parametrize(
    ("url", "host", "port", "security"),
    [
        ("smtp://relay.example.com", "relay.example.com", 25, Security.NONE),
        ("smtp://relay.example.com/", "relay.example.com", 25, Security.NONE),
        ("SMTP://relay.example.com:2525", "relay.example.com", 2525, Security.NONE),
        ("smtp://u:p@relay.example.com", "relay.example.com", 587, Security.REQUIRED),
        ("smtp://u:p@relay.example.com:25", "relay.example.com", 25, Security.REQUIRED),
        ("smtp://u:p@localhost:25", "localhost", 25, Security.NONE),
        ("smtp://u:p@[::1]:25", "::1", 25, Security.NONE),
        ("smtp://[2001:db8::1]", "2001:db8::1", 25, Security.NONE),
        ("smtp://h?tls=required", "h", 587, Security.REQUIRED),
        ("smtp://u:p@h?tls=insecure", "h", 25, Security.INSECURE),
        ("smtps://h", "h", 465, Security.IMPLICIT),
        ("smtps://u:p@h:4465?tls=implicit", "h", 4465, Security.IMPLICIT),
    ],
)
def test_a_relay_is_read_with_its_defaults(url, host, port, security):
    read = door(url)
    assert (read.opening.host, read.opening.port, read.security) == (host, port, security)
    assert (read.opening.tls is not None) == (security is Security.IMPLICIT)


def test_all_parts_are_percent_decoded():
    read = door("smtp://us%40er:p%3Aa%2Fs%23s%25%3F@h%2De?ehlo_name=a%2Eb&ca_file=%2Fx%20y")
    assert read.credentials.username == "us@er"
    assert read.credentials.password == "p:a/s#s%?"
    assert (read.opening.host, read.ehlo_name, read.tls.ca_file) == ("h-e", "a.b", "/x y")


def test_all_parameters_reach_the_relay():
    url = f"smtp://h?tls=required&ca_file=a&cert_file=b&key_file=c&fingerprint={'d' * 64}&window=2"
    transport = transport_from_url(f"{url}&max_per_line=7")
    assert transport._door.tls == Tls(
        ca_file="a", cert_file="b", key_file="c", fingerprint="d" * 64
    )
    assert transport.carries.window == 2
    assert transport._max_per_line == 7


@pytest.mark.parametrize(
    ("url", "kind", "name"),
    [
        ("console:", Console, "console"),
        ("console://", Console, "console"),
        ("memory:", Memory, "memory"),
        ("memory://", Memory, "memory"),
        ("null:", Null, "null"),
        ("folder:///var/out", Folder, "folder"),
        ("folder:out", Folder, "folder"),
        ("maildir:///var/mail%20out", Folder, "maildir"),
    ],
)
def test_local_ways_out(url, kind, name):
    transport = transport_from_url(url)
    assert isinstance(transport, kind)
    assert transport.name == name


def test_an_api_is_read_with_its_key_and_its_parameters():
    resend = transport_from_url("resend://re%5Fkey@")
    assert (resend.name, resend.token, resend.home) == ("resend", "re_key", Resend.home)
    url = "postmark://tok@?home=https://eu.example.com/v1/&stream=bulk&ca_file=%2Fca.pem"
    postmark = transport_from_url(url)
    assert isinstance(postmark, Postmark)
    assert (postmark.home, postmark.stream) == ("https://eu.example.com/v1", "bulk")
    assert postmark.tls == Tls(ca_file="/ca.pem")


def test_a_folder_is_where_the_url_says():
    assert repr(transport_from_url("folder:///var/mail%20out")) == "<Folder '/var/mail out'>"
    assert repr(transport_from_url("folder:out")) == "<Folder 'out'>"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "URL such as"),
        ("relay.example.com", "URL such as"),
        ("stmp://h", "did you mean smtp"),
        (
            "sendgird://h",
            "known: console, folder, maildir, mailgun, memory, null, postmark, resend, sendgrid",
        ),
        ("smtp://h?tsl=none", "did you mean tls"),
        ("smtp://h?nothing=like", "known: ca_file"),
        ("console:?colour=1", "known: none"),
        ("console://host", "console: and nothing after"),
        ("memory:/path", "memory: and nothing after"),
        ("folder://host/path", "folder:///an/absolute/path"),
        ("folder:", "folder:///an/absolute/path"),
        ("smtp://", "MAIL_SERVER"),
        ("smtp://h/path", "no path"),
        ("smtp://h:port", "port"),
        ("smtp://h:99999", "MAIL_PORT"),
        ("smtp://::1", "port"),
        ("smtp://[::1]x", "port"),
        ("smtp://h?tls=maybe", "required, none or insecure"),
        ("smtp://h?tls=implicit", "smtps"),
        ("smtps://h?tls=none", "smtps is TLS from the first byte"),
        ("smtp://h?window=many", "window= has to be a number"),
        ("smtp://h?window=0", "window"),
        ("smtps://h?fingerprint=abc", "64 hexadecimal digits"),
        ("smtp://h?max_per_line=-1", "max_per_line= has to be a number"),
        ("smtp://h?tls=none&tls=required", "twice"),
        ("smtp://u@h", "MAIL_PASSWORD"),
        ("smtp://u:p@h?tls=none", "MAIL_USE_TLS"),
        ("smtp://u:%zz@h", "%25"),
        ("smtp://u:p#1@h", "%23"),
        ("smtp://h\r\n", "control"),
        ("resend://", "resend://KEY@"),
        ("resend:", "resend://KEY@"),
        ("resend://user:key@", "resend://KEY@"),
        ("postmark://key@api.example.com", "postmark://KEY@"),
        ("postmark://key@/path", "postmark://KEY@"),
        ("mailgun://key", "mailgun://KEY@DOMAIN, where"),
        ("mailgun://user:key@mg.example.com", "mailgun://KEY@DOMAIN, where"),
        ("resend://key", "resend://KEY@, where"),
        ("resend://key@?stream=x", "unknown parameter stream"),
        ("resend://key@?home=http://api.example.com", "home="),
        ("resend://a%20key@", "printable ASCII"),
    ],
)
def test_what_cannot_work_is_said_with_what_would(url, says):
    with pytest.raises(ConfigurationError) as error:
        transport_from_url(url)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "smtp://u:hunter2@h:port",
        "smtp://u:hun?ter2@h",
        "smtp://u:hunter2@h?tsl=x",
        "smtp://u:hunter2#@h",
        "smtp://u:hunter2%@h",
        "smtp://u:hunter2@h/path",
        "smpt://u:hunter2@h",
        "smtp://u:hunter2@h?tls=none",
        "smtp://u:hunter/2@h",
        "smtp:u:hunter2@h",
        "resend://hunter2@h",
        "resend://user:hunter2@",
        "resend://hunter2",
        "resend://hunter2%20@",
        "resend://key@?home=https://hunter2@h",
        "resned://hunter2@",
    ],
)
def test_no_error_shows_a_secret(url):
    with pytest.raises(ConfigurationError) as error:
        transport_from_url(url)
    for secret in ("hunter2", "ter2", "hun"):
        assert secret not in str(error.value)
        assert secret not in repr(error.value.__context__)


def test_the_key_of_an_api_is_not_shown():
    url = Url.parsed("resend://hunter2@?home=https://h")
    assert str(url) == "resend:"
    for each in (url, transport_from_url("resend://hunter2@")):
        assert "hunter2" not in repr(each) + str(each)


def test_neither_the_url_nor_the_relay_shows_its_password():
    url = Url.parsed("smtp://shop:hunter2@h:587?tls=required")
    assert "hunter2" not in repr(url)
    assert str(url) == "smtp://shop:***@h:587"
    assert "hunter2" not in repr(transport_from_url("smtp://shop:hunter2@h:587"))


RELAYS = {
    "ca_file": "/ours",
    "fingerprint": "0a" * 32,
    "cert_file": "/me",
    "key_file": "/mine",
    "ehlo_name": "shop.example.com",
}
AS_RELAYS = Tls(ca_file="/ours", fingerprint="0a" * 32, cert_file="/me", key_file="/mine")


@pytest.mark.parametrize(
    ("query", "tls", "ehlo_name"),
    [
        ("", AS_RELAYS, "shop.example.com"),
        ("?tls=required&window=1", AS_RELAYS, "shop.example.com"),
        ("?ca_file=/own", replace(AS_RELAYS, ca_file="/own", fingerprint=None), "shop.example.com"),
        (
            f"?fingerprint={'0b' * 32}",
            replace(AS_RELAYS, ca_file=None, fingerprint="0b" * 32),
            "shop.example.com",
        ),
        (
            "?cert_file=/own",
            replace(AS_RELAYS, cert_file="/own", key_file=None),
            "shop.example.com",
        ),
        ("?ehlo_name=own.example.com", AS_RELAYS, "own.example.com"),
    ],
)
def test_what_is_said_of_every_relay_gives_way_to_what_a_url_says(query, tls, ehlo_name):
    transport = transport_from_url(f"smtp://relay.example.com{query}", None, RELAYS)
    assert (transport._door.tls, transport._door.ehlo_name) == (tls, ehlo_name)


def test_what_is_said_of_relays_is_said_of_no_api():
    assert transport_from_url("resend://key@", None, RELAYS).tls == Tls()
