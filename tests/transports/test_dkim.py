"""DKIM: what is signed, by which keys, and what the RFCs themselves say of their samples."""

import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dkim_judges import ED, RSA, OpenDkim, dkimpy, header, pem_of, published
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.dkim import (
    ALWAYS,
    SIGNED,
    by_domain,
    relaxed_body,
    relaxed_header,
    sign,
)
from flask_outbox.transports.dkim_key import DkimKey, private_key

NOW = 1_790_000_000.25
BOTH = by_domain([RSA, ED])


def note(**fields):
    composed = {"subject": "hi", "recipients": ["ada@example.org"], "body": "text", **fields}
    return seal(Message(**{"sender": "shop@example.com", **composed}), now=NOW)


def raw(text, **fields):
    """A submission of what nobody sealed."""
    content = text.replace("\n", "\r\n").encode()
    known = {"sender": "", "recipients": (), "message_id": "", "date": NOW}
    return Submission(**{**known, **fields}, content=content)


def tags(content, at=0):
    """Read the tags of one signature, white space taken out."""
    fields = re.findall(rb"DKIM-Signature: (.*?)\r\n(?! )", content, re.DOTALL)
    pairs = re.sub(rb"\s", b"", fields[at]).decode().split(";")
    return dict(pair.split("=", 1) for pair in pairs)


def test_each_key_of_the_domain_signs_in_order_above_the_mail_and_the_rest_is_as_it_was():
    mail = note()
    signed = sign(mail, BOTH)
    assert signed.content.endswith(mail.content)
    assert replace(signed, content=mail.content) == mail
    assert [tags(signed.content, at)["a"] for at in (0, 1)] == ["rsa-sha256", "ed25519-sha256"]
    assert [tags(signed.content, at)["s"] for at in (0, 1)] == ["r", "e"]
    assert header(signed.content).count(b"DKIM-Signature:") == 2
    assert dkimpy(signed.content, published(RSA, ED)) == [True, True]


def test_the_tags_are_these_and_no_others():
    signed = tags(sign(note(), by_domain([ED])).content)
    assert {name: signed[name] for name in "vacdst"} == {
        "v": "1",
        "a": "ed25519-sha256",
        "c": "relaxed/relaxed",
        "d": "example.com",
        "s": "e",
        "t": "1790000000",  # the Date's
    }
    assert set(signed) == {*"vacdsthb", "bh"}


def test_every_name_that_is_signed_stands_once_more_than_the_mail_has_fields_of_it():
    mail = raw("To: a@example.org\nFrom: shop@example.com\nX-Other: x\nTo: b@example.org\n\nx\n")
    signed = sign(mail, BOTH).content
    assert dkimpy(signed, published(RSA, ED)) == [True, True]
    listed = tags(signed)["h"].split(":")
    assert {name: listed.count(name) for name in listed} == {
        "from": 2,
        "to": 3,
        **dict.fromkeys(("subject", "date", "message-id"), 1),
        **dict.fromkeys(("list-unsubscribe", "list-unsubscribe-post"), 1),
    }


def test_all_that_a_message_can_carry_is_signed():
    mail = note(
        cc=["bob@example.org"],
        reply_to="help@example.com",
        in_reply_to="<a@example.org>",
        references=["<a@example.org>"],
        auto_submitted="auto-generated",
        list_id="news.example.com",
        list_unsubscribe="https://example.com/u",
        list_unsubscribe_post=True,
        list_help="https://example.com/h",
        html="<p>text</p>",
        extra_headers={"Feedback-ID": "a:b:c", "Sender": "x@example.com", "X-Mine": "1"},
    )
    names, _ = relaxed_header(header(mail.content))
    listed = tags(sign(mail, BOTH).content)["h"].split(":")
    assert {each.decode() for each in names} - set(listed) == {"x-mine"}
    assert set(ALWAYS) < set(SIGNED)


@pytest.mark.parametrize(
    ("sender", "signer"),
    [
        ("shop@example.com", "example.com"),
        ("Shop <shop@news.example.com>", "news.example.com"),
        ("shop@deep.news.example.com", "news.example.com"),
        ("shop@other.example.com", "example.com"),
        ("shop@badexample.com", None),
        ("shop@example.com.evil.test", None),
        ("shop@com", None),
        ('"a@evil.test" <shop@example.com>', "example.com"),
        ("a@evil.test <shop@example.com>", "example.com"),
        ('"<a@evil.test>"@example.com', "example.com"),
        ("shop@example.com (at evil@evil.test)", "example.com"),
        (r'"\"<a@evil.test>" <shop@EXAMPLE.com>', "example.com"),
        ("shop@example.com, a@evil.test", "example.com"),
        ("Shop\n <shop@example.com>", "example.com"),
        ("nobody", None),
        ("", None),
    ],
)
def test_the_from_domain_chooses_its_keys_else_the_nearest_domain_above(sender, signer):
    news = replace(ED, domain="news.example.com")
    mail = raw(f"From: {sender}\nTo: a@example.org\n\ntext\n", sender="bounce@example.com")
    signed = sign(mail, by_domain([ED, news]))
    if signer is None:
        assert signed is mail
    else:
        assert header(signed.content).count(b"DKIM-Signature:") == 1
        assert tags(signed.content)["d"] == signer


def test_without_a_from_or_without_keys_nothing_is_signed():
    for mail, keys in ((raw("To: a@example.org\n\nx\n"), BOTH), (note(), {})):
        assert sign(mail, keys) is mail


def test_a_repeat_is_the_same_bytes_also_by_keys_that_were_read_again():
    again = [DkimKey(k.domain, k.selector, private_key(pem_of(k), "KEY")) for k in (RSA, ED)]
    mail = note(html="<p>text</p>")
    assert sign(mail, BOTH).content == sign(replace(mail), by_domain(again)).content
    assert sign(replace(mail, attempt=3, recipients=()), BOTH).content == sign(mail, BOTH).content


@pytest.mark.parametrize("date", [-1.0, 0.0, 299.0, 1e12, 1e300])
def test_a_date_that_no_t_can_hold_is_left_out(tmp_path, date):
    signed = sign(replace(note(), date=date), BOTH).content
    assert "t" not in tags(signed)
    assert dkimpy(signed, published(RSA, ED)) == [True, True]
    assert OpenDkim(tmp_path / "judge", published(RSA, ED)).passes(signed) == 2


def test_a_signature_that_is_there_already_stays_and_is_not_signed(tmp_path):
    theirs = DkimKey("relay.test", "x", Ed25519PrivateKey.generate())
    once = sign(raw("From: a@relay.test\n\nx\n"), by_domain([theirs]))
    mail = replace(
        once, content=once.content.replace(b"From: a@relay.test", b"From: a@example.com")
    )
    twice = sign(mail, by_domain([ED]))
    assert twice.content.endswith(mail.content)
    assert "dkim-signature" not in tags(twice.content)["h"]
    assert dkimpy(twice.content, published(ED, theirs)) == [True, False]


def test_lines_keep_to_78_octets_but_for_the_longest_of_names():
    long = ".".join(["x" * 61] * 4)
    key = DkimKey(long, ".".join(["s" * 63] * 3), ED.private)
    mail = raw(f"From: a@{long}\n\nx\n")
    for signed in (sign(note(html="<p>a</p>"), BOTH), sign(mail, by_domain([key, key]))):
        lines = header(signed.content).split(b"\r\n")
        assert all(len(line) <= 78 or b" d=" in line or b"From" in line for line in lines)
        assert max(map(len, lines)) < 998
    assert dkimpy(sign(mail, by_domain([key])).content, published(key)) == [True]


# --- the RFCs' own samples ---

MESSAGE = """From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""
BODY_HASH = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="

# RFC 8463, appendix A.1 and A.2
ED_SECRET = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
ED_RECORD = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
RSA_PEM = """-----BEGIN RSA PRIVATE KEY-----
MIICXQIBAAKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi
Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqM
KrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB
AoGAH0cxOhFZDgzXWhDhnAJDw5s4roOXN4OhjiXa8W7Y3rhX3FJqmJSPuC8N9vQm
6SVbaLAE4SG5mLMueHlh4KXffEpuLEiNp9Ss3O4YfLiQpbRqE7Tm5SxKjvvQoZZe
zHorimOaChRL2it47iuWxzxSiRMv4c+j70GiWdxXnxe4UoECQQDzJB/0U58W7RZy
6enGVj2kWF732CoWFZWzi1FicudrBFoy63QwcowpoCazKtvZGMNlPWnC7x/6o8Gc
uSe0ga2xAkEA8C7PipPm1/1fTRQvj1o/dDmZp243044ZNyxjg+/OPN0oWCbXIGxy
WvmZbXriOWoSALJTjExEgraHEgnXssuk7QJBALl5ICsYMu6hMxO73gnfNayNgPxd
WFV6Z7ULnKyV7HSVYF0hgYOHjeYe9gaMtiJYoo0zGN+L3AAtNP9huqkWlzECQE1a
licIeVlo1e+qJ6Mgqr0Q7Aa7falZ448ccbSFYEPD6oFxiOl9Y9se9iYHZKKfIcst
o7DUw1/hz2Ck4N5JrgUCQQCyKveNvjzkkd8HjYs0SwM0fPjK16//5qDZ2UiDGnOe
uEzxBDAr518Z8VFbR41in3W4Y3yCDgQlLlcETrS+zYcL
-----END RSA PRIVATE KEY-----
"""
RSA_RECORD = (
    "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6w"
    "y5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9"
    "PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)
# RFC 8463, appendix A.3
SIGNATURES = {
    "brisbane": """DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
""",
    "test": """DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
""",
}
KEYS = {
    "brisbane": DkimKey(
        "football.example.com",
        "brisbane",
        Ed25519PrivateKey.from_private_bytes(b64decode(ED_SECRET)),
    ),
    "test": DkimKey("football.example.com", "test", private_key(RSA_PEM, "KEY")),
}
RECORDS = {KEYS["brisbane"].name: ED_RECORD, KEYS["test"].name: RSA_RECORD}

# RFC 6376, appendix A.2, signed by the key of appendix C
RFC_6376 = """DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
"""
UNSIGNED_6376 = f"""Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
{MESSAGE.replace("game.  Are", "game. Are")}"""
PEM_6376 = """-----BEGIN RSA PRIVATE KEY-----
MIICXwIBAAKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFC
jxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gb
to/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB
AoGBALmn+XwWk7akvkUlqb+dOxyLB9i5VBVfje89Teolwc9YJT36BGN/l4e0l6QX
/1//6DWUTB3KI6wFcm7TWJcxbS0tcKZX7FsJvUz1SbQnkS54DJck1EZO/BLa5ckJ
gAYIaqlA9C0ZwM6i58lLlPadX/rtHb7pWzeNcZHjKrjM461ZAkEA+itss2nRlmyO
n1/5yDyCluST4dQfO8kAB3toSEVc7DeFeDhnC1mZdjASZNvdHS4gbLIA1hUGEF9m
3hKsGUMMPwJBAPW5v/U+AWTADFCS22t72NUurgzeAbzb1HWMqO4y4+9Hpjk5wvL/
eVYizyuce3/fGke7aRYw/ADKygMJdW8H/OcCQQDz5OQb4j2QDpPZc0Nc4QlbvMsj
7p7otWRO5xRa6SzXqqV3+F0VpqvDmshEBkoCydaYwc2o6WQ5EBmExeV8124XAkEA
qZzGsIxVP+sEVRWZmW6KNFSdVUpk3qzK0Tz/WjQMe5z0UunY9Ax9/4PVhp/j61bf
eAYXunajbBSOLlx4D+TunwJBANkPI5S9iylsbLs6NkaMHV6k5ioHBBmgCak95JGX
GMot/L2x0IYyMLAz6oLWh2hm7zwtb0CgOrPo1ke44hFYnfc=
-----END RSA PRIVATE KEY-----
"""


def test_the_examples_of_rfc_6376_section_3_4_5_come_out_as_it_says():
    head, _, body = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n".partition(
        b"\r\n\r\n"
    )
    assert relaxed_header(head) == ([b"a", b"b"], [b"a:X\r\n", b"b:Y Z\r\n"])
    assert relaxed_body(body) == b" C\r\nD E\r\n"


@pytest.mark.parametrize("selector", SIGNATURES)
def test_by_the_keys_of_rfc_8463_come_the_signatures_of_rfc_8463(selector):
    signature = SIGNATURES[selector].replace("\n", "\r\n").encode()
    head, _, body = raw(MESSAGE).content.partition(b"\r\n\r\n")
    assert b64encode(sha256(relaxed_body(body)).digest()).decode() == BODY_HASH
    _, lines = relaxed_header(head)
    start, _, value = signature.rpartition(b"b=")
    _, [own] = relaxed_header(start + b"b=")
    order = [0, 1, 2, 3, 4]  # from : to : subject : date : message-id
    digest = sha256(b"".join(lines[at] for at in order) + own.removesuffix(b"\r\n")).digest()
    assert KEYS[selector].signature(digest) == b64decode(value)
    assert KEYS[selector].record == RECORDS[KEYS[selector].name]


def test_the_judges_know_the_sample_of_rfc_8463_and_hold_ours_of_it_for_as_good(tmp_path):
    judge = OpenDkim(tmp_path / "judge", RECORDS)
    theirs = "".join(SIGNATURES.values()) + MESSAGE
    ours = sign(raw(MESSAGE, date=1528637909.0), by_domain(KEYS.values())).content
    for content in (raw(theirs).content, ours):
        assert dkimpy(content, RECORDS) == [True, True]
        assert judge.passes(content) == 2
    assert tags(ours)["bh"] == BODY_HASH
    assert tags(ours)["t"] == "1528637909"


def test_the_judges_know_the_sample_of_rfc_6376_and_hold_ours_of_it_for_as_good(tmp_path):
    key = DkimKey("example.com", "brisbane", private_key(PEM_6376, "KEY"))
    judge = OpenDkim(tmp_path / "judge", published(key))
    ours = sign(raw(UNSIGNED_6376), by_domain([key])).content
    theirs = raw(RFC_6376 + UNSIGNED_6376).content
    for content in (theirs, ours):
        assert dkimpy(content, published(key)) == [True]
        assert judge.holds([content]) == [True]
    assert tags(ours)["bh"] == BODY_HASH
