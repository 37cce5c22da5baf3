"""Whatever was composed is what a reader finds, and the bytes keep to their lines."""

import quopri
import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import default
from email.utils import unquote

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from flask_outbox.mail.address import Address
from flask_outbox.mail.body import quoted_printable
from flask_outbox.mail.headers import address_field
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal

CONTROL = [*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029]
writable = st.characters(codec="utf-8", exclude_characters=[chr(each) for each in CONTROL])
# Spaces that a reader of headers may take for folding are tested by themselves, further down.
# What Persian, Hindi and emoji join with, and the spaces of French and Japanese, belong to names.
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}"
readable = st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.sampled_from(
    " .,@'\"\\" + JOINERS
)
ascii_text = st.text(alphabet=[chr(each) for each in range(0x20, 0x7F)], max_size=300)
subjects = st.one_of(
    st.text(alphabet=writable, max_size=400),
    ascii_text,
    st.text(alphabet="ab cd ", max_size=300),
    st.text(alphabet="ä 漢€😀", max_size=300),
    st.text(alphabet="x", min_size=60, max_size=1200),
)
names = st.one_of(st.text(alphabet=readable, max_size=120), ascii_text).map(str.strip)
label = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)
addrs = st.builds("{}@{}.{}".format, label, label, label)
mailboxes = st.tuples(names, addrs)
bodies = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=600),
    st.lists(
        st.sampled_from(
            ["a", ".", "..", ".b", " ", "\t", "x" * 75, "y" * 1100, "ü", "=", "é" * 80]
        ),
        max_size=30,
    ).flatmap(
        lambda words: st.lists(
            st.sampled_from(["\n", "\r\n", "\r", " ", ""]),
            min_size=len(words),
            max_size=len(words),
        ).map(lambda ends: "".join(word + end for word, end in zip(words, ends, strict=True))),
    ),
)
filenames = (
    st.text(
        alphabet=st.characters(
            codec="utf-8",
            exclude_characters=[*map(chr, CONTROL), *"/\\?\u061c\u200e\u200f"]
            + [chr(each) for each in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))],
        ),
        min_size=1,
        max_size=150,
    )
    .map(str.strip)
    .filter(lambda name: name.strip(" ."))
)


def parsed(content):
    return message_from_bytes(content, policy=default)


def no_defects(message):
    for part in message.walk():
        assert not part.defects, part.defects
        for name, value in part.items():
            assert not value.defects, (name, value.defects)


def keeps_to_its_lines(content):
    assert re.fullmatch(rb"(?:[^\r\n\0]*\r\n)*", content)
    head = content.partition(b"\r\n\r\n")[0]
    for line in content.split(b"\r\n"):
        assert len(line) <= 998
    for line in head.split(b"\r\n"):
        assert len(line) <= 78 or b" " not in line.strip().partition(b": ")[2], line
        assert line.strip(), "a line of white space alone"
        for word in re.findall(rb"=\?[^?]+\?[bq]\?[^?]*\?=", line):
            assert len(word) <= 75


def shown(addresses):
    """Names without their white space, and addresses.

    Python's policy.default puts a space where a name goes on in a second encoded word, and makes
    one of several; what is exact is read with its older decoder, in tests of their own.
    """
    return [(re.sub(r"\s", "", name), addr) for name, addr in addresses]


def found(header):
    return shown([(a.display_name, a.addr_spec) for a in header.addresses])


def lines(text):
    return re.sub("\r\n|\r", "\n", text)


def text_of(part):
    return part.get_payload(decode=True).decode("utf-8").replace("\r\n", "\n")


@settings(max_examples=300)
@given(
    subject=subjects,
    sender=mailboxes,
    to=st.lists(mailboxes, min_size=1, max_size=6),
    cc=st.lists(mailboxes, max_size=3),
    body=bodies,
)
@example("", ("", "a@b.c"), [("", "a@b.c")], [], "")
@example("x" * 997, ("", "a@b.c"), [("", "a@b.c")], [], "\n.\n")
@example("é" * 45, ("é" * 40, "a@b.c"), [("x" * 200, "a@b.c")], [], "a \nb\t\n")
@example("=?utf-8?q?x?=", ("=?utf-8?q?x?=", "a@b.c"), [("a =?b", "a@b.c")], [], "From x\n")
def test_a_plain_mail_reads_back_as_it_was_composed(subject, sender, to, cc, body):
    sealed = seal(Message(subject, to, body, sender=sender, cc=cc), now=0)
    keeps_to_its_lines(sealed.content)
    assert sealed.content.isascii()
    mail = parsed(sealed.content)
    no_defects(mail)
    assert (mail["subject"] or "") == subject
    assert found(mail["from"]) == shown([sender])
    assert found(mail["to"]) == shown(dict.fromkeys(to))
    if cc:
        assert found(mail["cc"]) == shown(dict.fromkeys(cc))
    assert text_of(mail).removesuffix("\n") == lines(body).removesuffix("\n")
    assert list(sealed.recipients) == list(dict.fromkeys(addr for _, addr in (*to, *cc)))


@settings(max_examples=250)
@given(
    body=bodies,
    html=bodies,
    amp=bodies,
    files=st.lists(st.tuples(filenames, st.binary(max_size=400)), max_size=3),
    image=st.binary(max_size=200),
)
def test_a_mail_of_many_parts_reads_back_as_it_was_composed(body, html, amp, files, image):
    message = Message("s", ["a@b.c"], body, html, {"x-amp-html": amp}, sender="s@b.c")
    for name, data in files:
        message.attach(name, "application/pdf", data)
    message.attach("i.png", None, image, cid="i@x")
    sealed = seal(message, now=0)
    keeps_to_its_lines(sealed.content)
    mail = parsed(sealed.content)
    no_defects(mail)
    assert text_of(mail.get_body(("plain",))) == lines(body)
    assert text_of(mail.get_body(("html",))) == lines(html)
    leaves = [part for part in mail.walk() if not part.is_multipart()]
    assert [text_of(p) for p in leaves if p.get_content_subtype() == "x-amp-html"] == [lines(amp)]
    pdfs = [part for part in leaves if part.get_content_type() == "application/pdf"]
    assert [part.get_payload(decode=True) for part in pdfs] == [data for _, data in files]
    # Python's reader takes quotes and angle brackets off whatever begins and ends with them.
    assert [part.get_filename() for part in pdfs] == [unquote(name) for name, _ in files]
    shown = next(part for part in leaves if part["content-id"] == "<i@x>")
    assert shown.get_payload(decode=True) == image


@settings(max_examples=300)
@given(st.text(alphabet=" \tab,ä=?<>", max_size=120), st.text(alphabet=' \tab,ä"\\.', max_size=90))
def test_white_space_in_headers_survives(subject, name):
    mail = parsed(seal(Message(subject, [(name, "a@b.c")], "", sender="s@b.c"), now=0).content)
    no_defects(mail)
    assert (mail["subject"] or "") == subject
    assert found(mail["to"]) == shown([(name, "a@b.c")])


@settings(max_examples=300)
@given(st.text(alphabet=f"é漢😀 =?a{JOINERS}", max_size=150).map(str.strip), st.integers(1, 60))
def test_a_name_in_any_number_of_encoded_words_decodes_to_itself(name, width):
    assume(not name.isascii())
    line = address_field("X" * width, [Address(name, "a@b.c")])
    raw = line.partition(":")[2].strip()
    assert str(make_header(decode_header(raw))) == f"{name} <a@b.c>"
    assert all(len(each) <= 78 for each in line.split("\r\n"))


@settings(max_examples=100)
@given(st.text(alphabet=f"aé漢{JOINERS}", max_size=60).map(str.strip))
def test_a_short_name_is_exact_for_every_reader(name):
    assume(len(name.encode()) <= 20)
    mail = parsed(seal(Message("s", [(name, "a@b.c")], "", sender="s@b.c"), now=0).content)
    assert mail["to"].addresses[0].display_name == name


@settings(max_examples=300)
@given(
    st.text(alphabet="aé漢ｱ字 語", max_size=120),
    st.sampled_from(["shift_jis", "euc-jp", "iso-8859-1", "latin-1", "gb18030", "big5", "koi8-r"]),
)
def test_other_charsets_read_back_too(text, charset):
    message = Message(text, [(text, "a@b.c")], text, sender="s@b.c", charset=charset)
    sealed = seal(message, now=0)
    keeps_to_its_lines(sealed.content)
    mail = parsed(sealed.content)
    no_defects(mail)
    assert (mail["subject"] or "") == text
    assert found(mail["to"]) == shown([(text, "a@b.c")])
    assert mail.get_content().replace("\r\n", "\n").removesuffix("\n") == text


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["X-A", "X-B", "Comments"]), subjects, max_size=3))
def test_extra_headers_read_back(headers):
    assume(all("=?" not in value for value in headers.values()))
    message = Message("s", ["a@b.c"], "", sender="s@b.c", extra_headers=headers)
    sealed = seal(message, now=0)
    keeps_to_its_lines(sealed.content)
    mail = parsed(sealed.content)
    no_defects(mail)
    for name, value in headers.items():
        assert (mail[name] or "").strip() == value.strip()


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 10**40).map("<{}@example.org>".format), min_size=1, max_size=60),
    st.lists(
        st.text("abc/?=&%", max_size=300).map("https://x.test/{}".format), min_size=1, max_size=4
    ),
)
def test_ids_and_urls_are_folded_and_never_encoded(ids, urls):
    assume(not any("=?" in url for url in urls))
    message = Message("s", ["a@b.c"], "", sender="s@b.c", references=ids, list_unsubscribe=urls)
    content = seal(message, now=0).content
    keeps_to_its_lines(content)
    unfolded = content.replace(b"\r\n ", b" ")
    assert f"\r\nReferences: {' '.join(ids)}\r\n".encode() in unfolded
    assert f"\r\nList-Unsubscribe: {', '.join(f'<{u}>' for u in urls)}\r\n".encode() in unfolded


@settings(max_examples=300)
@given(st.lists(st.text("a =\té.", max_size=170), max_size=6).map("\n".join))
def test_quoted_printable_keeps_to_76_and_decodes_to_what_it_was(text):
    encoded = quoted_printable(text.encode())
    assert all(len(line) <= 76 for line in encoded.split(b"\n"))
    assert not re.search(rb"[ \t]$", encoded, re.MULTILINE)

    assert quopri.decodestring(encoded) == text.encode()


def test_a_space_at_the_end_of_a_full_line_does_not_lengthen_it():
    for width in range(60, 160):
        for space in (" ", "\t"):
            for letter in ("x", "é", "="):
                line = (letter * width)[:width] + space
                encoded = quoted_printable(f"{line}\n{line}\nend".encode())
                assert max(map(len, encoded.split(b"\n"))) <= 76, (width, letter)
                assert quopri.decodestring(encoded) == f"{line}\n{line}\nend".encode()
