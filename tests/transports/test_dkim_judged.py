"""DKIM before its judges: what is ours holds, and whatever was changed on the way does not."""

import re

import pytest
from dkim.canonicalization import Relaxed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dkim_judges import ED, RSA, OpenDkim, dkimpy, header, published
from flask_outbox.mail.message import Attachment, Message
from flask_outbox.mail.mime import seal
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.dkim import ALWAYS, by_domain, relaxed_body, relaxed_header, sign

NOW = 1_790_000_000.0
RECORDS = published(RSA, ED)
BOTH = by_domain([RSA, ED])
KEYS = {"rsa": by_domain([RSA]), "ed25519": by_domain([ED])}

texts = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" "),
    max_size=200,
).map(str.strip)
bodies = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=400),
    st.lists(
        st.sampled_from(["a", " ", "  ", "\t", "\n", "\n\n", ".", "x" * 80, "ü", "="]), max_size=40
    ).map("".join),
)
messages = st.builds(
    Message,
    subject=texts,
    recipients=st.lists(st.tuples(texts, st.just("ada@example.org")), min_size=1, max_size=3),
    body=bodies,
    html=st.none() | bodies,
    sender=st.tuples(texts, st.just("shop@example.com")),
    attachments=st.lists(
        st.builds(lambda data: Attachment("ä.bin", data=data), st.binary(max_size=200)),
        max_size=2,
    ),
    cc=st.lists(st.just("carol@example.net"), max_size=1),
    references=st.lists(st.just("<" + "r" * 70 + "@example.org>"), max_size=9),
    list_unsubscribe=st.sampled_from([None, "https://example.com/" + "u" * 200]),
    date=st.floats(0, NOW),
)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return OpenDkim(tmp_path_factory.mktemp("opendkim") / "judge", RECORDS)


def rich():
    """A mail with something of everything that is signed, and nothing else."""
    return seal(
        Message(
            "Ihre Bestellung  ist unterwegs ✓",
            [("Jörg Müller", "joerg@example.org")],
            "Guten  Tag!\n\nBis bald \n",
            "<p>Guten  Tag</p>",
            sender=("Jürgens Bücherstube", "shop@example.com"),
            reply_to="help@example.com",
            list_unsubscribe="https://example.com/unsubscribe/4711",
            list_unsubscribe_post=True,
        ),
        now=NOW,
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(message=messages)
def test_whatever_is_sealed_and_signed_holds(judge, message):
    signed = sign(seal(message, now=NOW), BOTH).content
    assert dkimpy(signed, RECORDS) == [True, True]
    assert judge.passes(signed) == 2
    assert all(len(line) <= 998 for line in signed.split(b"\r\n"))


@pytest.mark.parametrize(
    "body",
    ["", "\n", "\n\n\n", " \n", "\t \n \n", "x", "x\n\n\n", "x \t\n\n \n", " x", "a\n\n b\n"],
    ids=repr,
)
def test_bodies_that_are_empty_or_end_in_blank_lines_hold(judge, body):
    content = f"From: shop@example.com\n\n{body}".replace("\n", "\r\n").encode()
    mail = Submission(sender="", recipients=(), content=content, message_id="", date=NOW)
    signed = sign(mail, BOTH).content
    signed += b"" if signed.endswith(b"\r\n") else b"\r\n"  # as SMTP does
    assert dkimpy(signed, RECORDS) == [True, True]
    assert judge.passes(signed) == 2


def test_a_body_that_is_all_white_space_is_made_short_in_a_few_steps():
    assert relaxed_body(b" " * 2_000_000 + b"\r\n" * 100_000) == b""
    assert relaxed_body(b"a" + b"\t " * 500_000 + b"b\r\n") == b"a b\r\n"


spaced = st.lists(
    st.sampled_from([b"a", b"B", b":", b" ", b"\t", b"\r\n ", b"\r\n\t", b"\xc3\xa9", b"=20"]),
    max_size=25,
).map(b"".join)
fields = st.tuples(
    st.sampled_from([b"From", b"sUBJECT", b"X-a", b"To ", b"Cc\t "]),
    spaced,
)
lines = st.lists(
    st.sampled_from([b"a", b"B", b" ", b"  ", b"\t", b"\r\n", b"\r\n\r\n", b".", b"\xc3\xa9"]),
    max_size=60,
).map(b"".join)


@settings(max_examples=300)
@given(several=st.lists(fields, min_size=1, max_size=6))
@example(several=[(b"A", b" X"), (b"B ", b" Y\t\r\n\tZ  ")])
def test_the_canonical_header_is_dkimpys(several):
    head = b"\r\n".join(name + b":" + value for name, value in several)
    theirs = Relaxed.canonicalize_headers([(name, value + b"\r\n") for name, value in several])
    names, ours = relaxed_header(head)
    assert list(zip(names, ours, strict=True)) == [
        (name, name + b":" + value) for name, value in theirs
    ]


@settings(max_examples=300)
@given(body=lines)
@example(body=b"")
@example(body=b"\r\n")
@example(body=b" C \r\nD \t E\r\n\r\n\r\n")
def test_the_canonical_body_is_dkimpys_once_its_last_line_is_ended(body):
    ended = body if body.endswith(b"\r\n") else body + b"\r\n"
    assert relaxed_body(body) == Relaxed.canonicalize_body(ended)


def canonical(content):
    """Give what relaxed canonicalisation leaves of a mail, as dkimpy has it."""
    head, _, body = content.partition(b"\r\n\r\n")
    fields = re.split(rb"\r\n(?![ \t])", head)
    pairs = [tuple(field.partition(b":")[::2]) for field in fields]
    return Relaxed.canonicalize_headers(pairs), Relaxed.canonicalize_body(body)


def changed(content):
    """Give every copy with one octet changed, but for line ends and the signature's own value."""
    free = re.search(rb" b=[^;]*?\r\n(?! )", content)
    for at, octet in enumerate(content):
        if not free.start() + 3 <= at < free.end() and octet not in b"\r\n":
            yield content[:at] + bytes([octet ^ 1]) + content[at + 1 :]
            yield content[:at] + b" " + content[at:]


@pytest.mark.parametrize("kind", KEYS)
def test_every_copy_with_one_octet_changed_or_one_space_more_is_refused(kind, judge):
    signed = sign(rich(), KEYS[kind]).content
    assert dkimpy(signed, RECORDS) == [True]
    assert judge.holds([signed]) == [True]
    before = canonical(signed)
    copies = list(changed(signed))
    broken = [each for each in copies if canonical(each) != before]
    assert 2 * len(signed) > len(broken) > len(signed)
    assert not any(judge.holds(broken))
    assert not any(any(dkimpy(each, RECORDS)) for each in broken[::7])


printable = st.binary(min_size=1, max_size=8).map(lambda text: bytes(max(32, o) for o in text))


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(message=messages, at=st.integers(0), octets=printable)
@example(message=Message("hi", ["a@b.example"], "x", sender="s@example.com"), at=41, octets=b"u")
def test_what_was_overwritten_anywhere_in_any_mail_is_refused(judge, message, at, octets):
    signed = sign(seal(message, now=NOW), KEYS["ed25519"]).content
    spoilt = bytearray(signed)
    mail = signed.index(b"\r\nDate:") + 2
    start = mail + at % (len(signed) - mail)
    for place, octet in enumerate(octets, start):
        if place < len(signed) and signed[place] not in b"\r\n":
            spoilt[place] = octet
    if canonical(spoilt) != canonical(signed):
        assert not any(dkimpy(bytes(spoilt), RECORDS))
        assert not any(judge.holds([spoilt]))


ADDED = [
    *(b"From: evil@evil.test", b"Subject: Win", b"To: x@evil.test", b"Message-ID: <x@evil.test>"),
    *(b"Date: Fri, 11 Jul 2003 21:00:37 -0700", b"List-Unsubscribe: <https://evil.test>"),
    *(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click", b"Reply-To: evil@evil.test"),
    *(b"MIME-Version: 1.0", b"Content-Type: text/html"),
]


def with_field(content, field, *, below):
    if below:
        return content.replace(b"\r\n\r\n", b"\r\n" + field + b"\r\n\r\n", 1)
    at = content.index(b"\r\nDate: ") + 2
    return content[:at] + field + b"\r\n" + content[at:]


@pytest.mark.parametrize("below", [False, True], ids=["above", "below"])
@pytest.mark.parametrize("field", ADDED, ids=lambda field: field.decode().partition(":")[0])
def test_a_second_field_of_a_name_that_is_signed_is_refused(judge, field, below):
    spoilt = with_field(sign(rich(), KEYS["rsa"]).content, field, below=below)
    assert dkimpy(spoilt, RECORDS) == [False]
    assert judge.holds([spoilt]) == [False]


@pytest.mark.parametrize("below", [False, True], ids=["above", "below"])
@pytest.mark.parametrize("name", ALWAYS, ids=bytes.decode)
def test_a_field_that_the_mail_had_not_is_refused_where_its_name_is_always_signed(
    judge, name, below
):
    content = b"From: shop@example.com\r\nDate: Mon, 21 Sep 2026 14:13:20 +0000\r\n\r\nx\r\n"
    mail = Submission(sender="", recipients=(), content=content, message_id="", date=NOW)
    signed = sign(mail, KEYS["rsa"]).content
    assert judge.holds([signed]) == [True]
    spoilt = with_field(signed, name + b": evil", below=below)
    assert dkimpy(spoilt, RECORDS) == [False]
    assert judge.holds([spoilt]) == [False]


def test_each_mail_has_a_verdict_where_some_are_passed_over_and_some_are_none(judge):
    signed = sign(rich(), KEYS["rsa"]).content
    nobodys = signed.replace(b"\r\nFrom:", b"\r\nFrum:")
    no_mail = signed.replace(b"\r\nFrom:", b"\r\nFrom")
    several = [signed, nobodys, signed, no_mail, nobodys, signed, no_mail]
    assert judge.holds(several) == [each is signed for each in several]


def test_what_relays_add_and_refold_is_forgiven(judge):
    signed = sign(rich(), KEYS["rsa"]).content
    assert header(signed).count(b"\r\n ") > 3
    on_its_way = [
        b"Received: from a by b; Mon, 21 Sep 2026 14:13:20 +0000\r\nX-Spam: no\r\n" + signed,
        signed.replace(b"\r\nSubject: ", b"\r\nSUBJECT:\t "),
        signed.replace(b"Message-ID: ", b"Message-ID:\r\n  "),
        signed + b"\r\n\r\n",
    ]
    for content in on_its_way:
        assert content != signed
        assert dkimpy(content, RECORDS) == [True]
    assert judge.holds(on_its_way) == [True] * 4


def test_another_key_in_dns_is_refused(tmp_path):
    other = {RSA.name: RSA.record.replace("p=MIIB", "p=MIIC"), ED.name: RSA.record}
    for keys in KEYS.values():
        signed = sign(rich(), keys).content
        assert OpenDkim(tmp_path / str(id(keys)), other).holds([signed]) == [False]
