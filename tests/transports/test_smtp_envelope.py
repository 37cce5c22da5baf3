"""Envelope, options, content: what is asked of the server, and what is refused before MAIL."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dialogue import TEXT, dialogue, mail
from flask_outbox.mail.outcome import Accepted, Refused
from flask_outbox.mail.submission import Dsn
from flask_outbox.transports.smtp_envelope import dotted, has_dots, plain, xtext

CONTENT = (TEXT + b".", "250 ok")
OK = "250 ok"
SMUGGLED = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<you@example.com>\r\nDATA\r\n",
]


def sent(first, second, submission, offers=()):
    return dialogue(
        [(first, OK), (second, OK), (b"DATA", "354 go"), CONTENT], submission, offers=offers
    )


TO = b"RCPT TO:<ada@example.org>"


def refusal(submission, offers=()):
    """Get the reason why it is refused before MAIL."""
    told = dialogue([], submission, offers=offers)
    (reason,) = {outcome.text for outcome in told.outcomes if isinstance(outcome, Refused)}
    assert told.ends == ["kept"]
    return reason


def test_the_size_is_announced_where_the_server_wants_to_know():
    assert sent(b"MAIL FROM:<shop@example.com> SIZE=22", TO, mail(), ("SIZE 100",)).outcomes
    assert sent(b"MAIL FROM:<shop@example.com>", TO, mail(), ("SIZE",)).outcomes
    assert sent(b"MAIL FROM:<shop@example.com>", TO, mail(), ("SIZE 0",)).outcomes


def test_a_message_larger_than_the_server_takes_is_refused_before_mail():
    assert "22" in refusal(mail(), ("SIZE 21",))
    assert sent(b"MAIL FROM:<shop@example.com> SIZE=22", TO, mail(), ("SIZE 22",)).outcomes


def test_an_empty_sender_is_the_null_reverse_path():
    assert sent(b"MAIL FROM:<>", TO, mail(sender="")).outcomes == [Accepted("250 ok")]


@pytest.mark.parametrize(
    "submission",
    [mail("jürgen@example.org"), mail(sender="jürgen@example.org"), mail(utf8=True)],
)
def test_what_needs_smtputf8_is_refused_where_the_server_lacks_it(submission):
    assert "SMTPUTF8" in refusal(submission, ("8BITMIME",))


def test_smtputf8_is_asked_for_where_it_is_needed():
    told = sent(
        b"MAIL FROM:<shop@example.com> SMTPUTF8",
        "RCPT TO:<jürgen@example.org>".encode(),
        mail("jürgen@example.org"),
        ("SMTPUTF8", "8BITMIME"),
    )
    assert told.outcomes == [Accepted("250 ok")]
    assert sent(b"MAIL FROM:<shop@example.com>", TO, mail(), ("SMTPUTF8", "8BITMIME")).outcomes


def test_eight_bit_content_asks_for_8bitmime_or_is_refused():
    content = "Subject: hi\r\n\r\nhéllo\r\n".encode()
    assert "8BITMIME" in refusal(mail(content=content))
    told = dialogue(
        [
            (b"MAIL FROM:<shop@example.com> BODY=8BITMIME", OK),
            (TO, OK),
            (b"DATA", "354 go"),
            (content + b".", OK),
        ],
        mail(content=content),
        offers=("8BITMIME",),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_options_are_appended_and_ours_are_not_said_twice():
    submission = mail(
        mail_options=("BODY=8BITMIME", "size=1", "smtputf8", "X=1"), rcpt_options=("NOTIFY=NEVER",)
    )
    told = sent(
        b"MAIL FROM:<shop@example.com> SIZE=22 BODY=8BITMIME smtputf8 X=1",
        TO + b" NOTIFY=NEVER",
        submission,
        ("SIZE 100", "8BITMIME", "SMTPUTF8"),
    )
    assert told.outcomes == [Accepted("250 ok")]


@pytest.mark.parametrize("char", ["\r", "\n", "\0", "\x7f", "\x85", "\u2028", "\x0b"])
@pytest.mark.parametrize("field", ["sender", "recipient", "mail_options", "rcpt_options"])
def test_a_control_character_in_an_envelope_never_reaches_the_wire(field, char):
    value = f"a{char}DATA@example.org"
    submission = (
        mail(value)
        if field == "recipient"
        else mail(**{field: value if field == "sender" else (value,)})
    )
    reason = refusal(submission, ("SMTPUTF8", "8BITMIME"))
    assert "control character" in reason
    assert "DATA" not in reason


@pytest.mark.parametrize(
    "dsn",
    [Dsn(ret="HDRS\r\nDATA"), Dsn(notify={"*": ("NEVER\r\nDATA",)})],
)
def test_a_control_character_in_what_notifications_ask_for_never_reaches_the_wire(dsn):
    assert "control character" in refusal(mail(dsn=dsn), ("DSN",))


def test_a_submission_for_nobody_is_reported_and_nothing_is_said():
    nobody = mail()
    object.__setattr__(nobody, "recipients", ())
    for offers in ((), ("PIPELINING",), ("PIPELINING", "CHUNKING")):
        told = dialogue([], nobody, offers=offers)
        assert told.receipt == {}


def test_notifications_are_asked_for_where_the_server_knows_them():
    dsn = Dsn(
        notify={"ada@example.org": ("SUCCESS", "FAILURE"), "*": ("NEVER",)},
        ret="HDRS",
        envid="order 7+=",
    )
    told = dialogue(
        [
            (b"MAIL FROM:<shop@example.com> RET=HDRS ENVID=order+207+2B+3D", OK),
            (TO + b" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;ada@example.org", OK),
            (b"RCPT TO:<b+c@example.org> NOTIFY=NEVER ORCPT=rfc822;b+2Bc@example.org", OK),
            (b"DATA", "354 go"),
            CONTENT,
        ],
        mail("ada@example.org", "b+c@example.org", dsn=dsn),
        offers=("DSN",),
    )
    assert told.outcomes == [Accepted("250 ok")] * 2


def test_notifications_are_silently_not_asked_for_where_the_server_lacks_them():
    dsn = Dsn(notify={"*": ("SUCCESS",)}, ret="FULL", envid="7")
    assert sent(b"MAIL FROM:<shop@example.com>", TO, mail(dsn=dsn)).outcomes


def test_an_internationalised_recipient_is_named_in_its_notification():
    told = sent(
        b"MAIL FROM:<shop@example.com> SMTPUTF8",
        "RCPT TO:<jür+a@example.org> ORCPT=utf-8;jür\\x{2B}a@example.org".encode(),
        mail("jür+a@example.org", dsn=Dsn()),
        ("DSN", "SMTPUTF8", "8BITMIME"),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_xtext_is_plain_where_it_can_be():
    assert xtext("plain@example.org") == "plain@example.org"
    assert xtext("a b+c=d\x7f") == "a+20b+2Bc+3Dd+7F"


# --- dots ---


def on_the_wire(content):
    return b"".join(dotted(content) if has_dots(content) else plain(content))


def received(wire):
    """Read as a server does (RFC 5321 section 4.5.2): up to the first lone dot, dots undone."""
    content, end, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    assert end
    return content.replace(b"\r\n.", b"\r\n")[2:] + b"\r\n", rest


sealed = st.lists(st.sampled_from([b".", b"..", b"", b"a", b".\0", b".a", b"a."])).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)


@given(sealed)
@example(b".\r\n")
@example(b"..\r\n.\r\n\r\n.\r\n")
def test_any_sealed_content_arrives_as_it_was_and_nothing_follows_it(content):
    wire = on_the_wire(content)
    if content:
        assert received(wire) == (content, b"")
    assert wire.endswith(b".\r\n")


@given(st.binary())
def test_whatever_the_bytes_there_is_one_lone_dot_and_it_is_the_last_line(content):
    lines = on_the_wire(content).split(b"\r\n")
    assert lines[-1] == b""
    assert [at for at, line in enumerate(lines) if line == b"."] == [len(lines) - 2]


def test_content_without_a_dot_goes_out_uncopied_and_gets_a_last_line_end():
    content = b"a\r\nb.\r\n"
    assert not has_dots(content)
    assert plain(content)[0] is content
    assert on_the_wire(b"a") == b"a\r\n.\r\n"


@pytest.mark.parametrize("smuggled", SMUGGLED)
def test_a_smuggled_end_is_doubled_or_refused(smuggled):
    content = b"Subject: hi\r\n\r\nhello" + smuggled + b"rest\r\n"
    bare = content.replace(b"\r\n", b"")
    if b"\r" in bare or b"\n" in bare:
        assert "bare CR or LF" in refusal(mail(content=content))
    else:
        assert received(on_the_wire(content)) == (content, b"")


@pytest.mark.parametrize("offers", [("CHUNKING", "PIPELINING"), ("PIPELINING",), ()])
def test_a_smuggled_end_is_refused_however_we_speak(offers):
    assert "bare" in refusal(mail(content=b"a\r\n\r\nb\n.\r\nc\r\n"), offers)
