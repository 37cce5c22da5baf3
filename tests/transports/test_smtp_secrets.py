"""What we told a server in confidence is told to nobody, wherever and however it repeats it."""

import hmac
from base64 import b64encode

import pytest

from dialogue import GONE, ME, Cut, Fresh, letters, mail, play, relay
from flask_outbox.mail.exchange import SmtpReply
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused
from flask_outbox.transports.smtp_login import Security
from flask_outbox.transports.smtp_secrets import GuardedRead, Secrets

USER, PASSWORD, TOKEN = "shop", "correct horse", "t0ken-word"
CHALLENGE = "<1.2@relay.example.com>"
DIGEST = hmac.new(PASSWORD.encode(), CHALLENGE.encode(), "md5").hexdigest()
BEARER = f"user={USER}\1auth=Bearer {TOKEN}\1\1"
EHLO = f"EHLO {ME}".encode()
MAIL, RCPT = b"MAIL FROM:<shop@example.com>", b"RCPT TO:<ada@example.org>"
CHUNK = b"BDAT 22 LAST\r\nSubject: hi\r\n\r\nhello"
# A first mail by which the server shows that its replies tell what they answer.
TELLING = [
    [(MAIL, "250 2.1.0"), (RCPT, "250 2.1.5"), (b"DATA", "354 go on")],
    (b"Subject: hi\r\n\r\nhello\r\n.", "250 2.0.0 ok"),
]
BEHIND = [(each, None) for each in (b"RSET", MAIL, RCPT, CHUNK)]
WAYS = {
    "in lock-step": (),
    "in groups": ("PIPELINING",),
    "in chunks": ("PIPELINING", "CHUNKING"),
}


def b64(text):
    return b64encode(text.encode()).decode()


LOGINS = {
    "PLAIN": [(f"AUTH PLAIN {b64(f'{chr(0)}{USER}{chr(0)}{PASSWORD}')}", "235 welcome")],
    "LOGIN": [
        ("AUTH LOGIN", f"334 {b64('Username:')}"),
        (b64(USER), f"334 {b64('Password:')}"),
        (b64(PASSWORD), "235 welcome"),
    ],
    "CRAM-MD5": [
        ("AUTH CRAM-MD5", f"334 {b64(CHALLENGE)}"),
        (b64(f"{USER} {DIGEST}"), "235 welcome"),
    ],
    "XOAUTH2": [(f"AUTH XOAUTH2 {b64(BEARER)}", "235 welcome")],
}
CONFIDED = {
    "PLAIN": [PASSWORD, b64(PASSWORD), b64(f"\0{USER}\0{PASSWORD}")],
    "LOGIN": [PASSWORD, b64(PASSWORD)],
    "CRAM-MD5": [PASSWORD, b64(PASSWORD), DIGEST, b64(f"{USER} {DIGEST}")],
    "XOAUTH2": [TOKEN, b64(TOKEN), b64(BEARER)],
}
REPEATED = [(mechanism, word) for mechanism, words in CONFIDED.items() for word in words]


def secret_relay(mechanism):
    confided = {"token": lambda: TOKEN} if mechanism == "XOAUTH2" else {"password": PASSWORD}
    return relay(username=USER, security=Security.INSECURE, **confided)


def entering(mechanism, *offers):
    lines = [f"250-{word}" for word in ("hi", *offers)]
    login = [(said.encode(), reply) for said, reply in LOGINS[mechanism]]
    return [Fresh(None), (EHLO, "\r\n".join([*lines, f"250 AUTH {mechanism}"])), *login]


def sending(offers, *, at_mail="250 ok", at_rcpt="250 ok", at_data="354 go on", at_dot="250 ok"):
    """Give the script of one mail, up to the reply that ends it."""
    envelope = [(MAIL, at_mail), (RCPT, at_rcpt)]
    end = (b"Subject: hi\r\n\r\nhello\r\n.", at_dot)
    if offers:
        group = [*envelope, (b"DATA", at_data)]
        return [group, *([end] if at_data.startswith("3") else [])]
    steps = [*envelope, (b"DATA", at_data), end]
    for number, (_, reply) in enumerate(steps):
        if reply[0] in "45":
            return steps[: number + 1]
    return steps


def told_by(mechanism, script, offers=(), one=None):
    return play(
        secret_relay(mechanism).send([one or mail()]), [*entering(mechanism, *offers), *script]
    )


def texts(told):
    return [f"{o.text} {getattr(o, 'reference', '')}" for o in told.outcomes]


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("mechanism", "word"), REPEATED)
def test_a_reply_to_mail_that_repeats_it_is_told_without_it(mechanism, word, offers):
    reply = f"550 5.7.1 {USER}/{word} may not"
    script = sending(offers, at_mail=reply, at_rcpt="503 no", at_data="503 no")
    told = told_by(mechanism, script, offers)
    assert told.outcomes == [Deferred(f"550 5.7.1 {USER}/*** may not", Fault.OURS)]


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("mechanism", "word"), REPEATED)
def test_a_reply_to_rcpt_that_repeats_it_is_told_without_it(mechanism, word, offers):
    script = sending(offers, at_rcpt=f"550 5.1.1 not {word}", at_data="503 no")
    assert told_by(mechanism, script, offers).outcomes == [Refused("550 5.1.1 not ***")]


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("mechanism", "word"), REPEATED)
def test_a_reply_to_data_that_repeats_it_is_told_without_it(mechanism, word, offers):
    told = told_by(mechanism, sending(offers, at_data=f"451 4.3.0 not {word}"), offers)
    assert told.outcomes == [Deferred("451 4.3.0 not ***")]


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("mechanism", "word"), REPEATED)
def test_a_reply_to_the_content_that_repeats_it_is_told_without_it(mechanism, word, offers):
    taken = told_by(mechanism, sending(offers, at_dot=f"250 2.0.0 queued as x{word}y"), offers)
    assert taken.outcomes == [Accepted("250 2.0.0 queued as x***y", "x***y")]
    refused = told_by(mechanism, sending(offers, at_dot=f"554 5.6.0 not {word}"), offers)
    assert refused.outcomes == [Refused("554 5.6.0 not ***")]


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("at", ["at_mail", "at_rcpt", "at_dot"])
@pytest.mark.parametrize("reply", ["421 4.7.0 bye {}", "354 {}"], ids=["421", "out of step"])
def test_a_line_that_ends_over_a_reply_that_repeats_it_is_told_without_it(offers, at, reply):
    script = sending(offers, **{at: reply.format(PASSWORD)})
    heard = {"at_mail": 1, "at_rcpt": 1 if offers else 2, "at_dot": len(script)}
    steps = script[: heard[at]]
    text = texts(told_by("PLAIN", steps, offers))[0]
    assert PASSWORD not in text
    assert reply.format("***") in text


def test_the_last_word_of_a_write_that_broke_is_told_without_it():
    *envelope, content = sending(())
    script = [*envelope, Cut(5, content, reply=f"552 5.3.4 not {PASSWORD}")]
    assert told_by("PLAIN", script).outcomes == [Refused("552 5.3.4 not ***")]


@pytest.mark.parametrize("lines", [["554-correct", "554 horse go away"], [f"554 {PASSWORD}"]])
def test_nor_is_it_told_where_the_greeting_repeats_it(lines):
    transport = secret_relay("PLAIN")
    told = play(transport.send([mail()]), [Fresh(None, greeting="\r\n".join(lines))])
    assert PASSWORD not in texts(told)[0]
    assert "554 ***" in texts(told)[0]


def test_nor_where_ehlo_and_what_it_offers_repeat_it():
    transport = relay(username=USER, password="S3CRET", security=Security.INSECURE)
    for reply in ("550 not S3CRET", "250-hi\r\n250 AUTH S3CRET"):
        told = play(transport.send([mail()]), [Fresh(None), (EHLO, reply)])
        assert "S3CRET" not in texts(told)[0]
        assert "***" in texts(told)[0]


def test_nor_where_starttls_is_refused_with_it():
    transport = relay(username=USER, password=PASSWORD, security=Security.REQUIRED)
    script = [
        Fresh(None),
        (EHLO, "250-hi\r\n250 STARTTLS"),
        (b"STARTTLS", f"454 not {PASSWORD}"),
    ]
    assert "454 not ***" in texts(play(transport.send([mail()]), script))[0]


@pytest.mark.parametrize("reply", ["421 bye {}", "500 not {}"])
def test_nor_where_a_reset_is_refused_with_it(reply):
    first = sending((), at_rcpt="550 5.1.1 no")
    script = [*entering("PLAIN"), *first, (b"RSET", reply.format(PASSWORD))]
    told = play(secret_relay("PLAIN").send([mail(), mail(number=2)]), script)
    assert reply.format("***") in texts(told)[1]


def test_nor_where_a_chunk_for_nobody_is_answered_with_it():
    nobody = [(MAIL, "250 2.1.0"), (RCPT, "550 5.1.1 no"), (CHUNK, f"421 bye {PASSWORD}")]
    script = [*entering("PLAIN", *WAYS["in chunks"]), *TELLING, nobody, BEHIND]
    sent = [mail(number=number) for number in range(3)]
    told = play(secret_relay("PLAIN").send(sent), script)
    assert "421 bye ***" in texts(told)[2]


def test_nor_where_a_chunk_is_answered_with_it():
    chunk = [(MAIL, "250 2.1.0"), (RCPT, "250 2.1.5"), (CHUNK, f"554 5.6.0 not {PASSWORD}")]
    script = [*entering("PLAIN", *WAYS["in chunks"]), *TELLING, chunk]
    told = play(secret_relay("PLAIN").send([mail(), mail(number=2)]), script)
    assert texts(told)[1].startswith("554 5.6.0 not ***")


@pytest.mark.parametrize("word", ["a", "ab", "abc"])
def test_it_is_hidden_whether_the_end_of_its_base64_is_there_or_not(word):
    secrets = Secrets()
    secrets.note(word * 5)
    for form in (b64(word * 5), b64(word * 5).rstrip("=")):
        assert secrets.hide(f"not {form}.") == "not ***."


def test_a_kept_line_keeps_what_is_not_to_be_told():
    """Its token is not the one that the source would give now."""
    told = told_by("XOAUTH2", sending(()))
    assert told.ends == ["kept"]
    reply = SmtpReply(550, (f"5.1.1 not {TOKEN}",))
    assert str(told.session.secrets.clean(reply)) == "550 5.1.1 not ***"


def test_what_decides_is_read_before_it_is_hidden():
    """A password may look like a code."""
    secrets = Secrets()
    for word in ("5", "1", "5.1.1", "550", "*"):
        secrets.note(word)
    cleaned = secrets.clean(SmtpReply(550, ("5.1.1 what 5 is",)))
    assert cleaned.code == 550
    assert cleaned.lines[0].startswith("5.1.1 what ***")


def test_a_reply_that_repeats_nothing_is_passed_on_as_it_is():
    secrets = Secrets()
    secrets.note(PASSWORD)
    reply = SmtpReply(250, ("a", "b"))
    assert secrets.clean(reply) is reply
    assert Secrets().clean(reply) is reply


def test_what_cannot_be_printed_is_hidden_as_the_wire_shows_it():
    secrets = Secrets()
    secrets.note("a\tb")
    assert secrets.hide("not a\N{REPLACEMENT CHARACTER}b") == "not ***"


def test_no_repr_shows_what_is_hidden():
    secrets = Secrets()
    secrets.note(PASSWORD)
    assert PASSWORD not in repr(secrets) + repr(GuardedRead(1.0, secrets.clean))


# --- what is sensitive ---

QUOTED = "hello, hello"


@pytest.mark.parametrize("offers", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (f"250 2.0.0 queued as {QUOTED}", Accepted("250 2.0.0")),
        (f"250 queued as {QUOTED}", Accepted("250")),
        (f"554 5.6.0 not {QUOTED}", Refused("554 5.6.0")),
        (f"451-4.3.0 not\r\n451 {QUOTED}", Deferred("451 4.3.0")),
    ],
)
def test_of_the_words_on_a_sensitive_mail_only_the_codes_are_kept(offers, reply, outcome):
    secret = mail(sensitive=True)
    told = told_by("PLAIN", sending(offers, at_dot=reply), offers, secret)
    assert told.outcomes == [outcome]


def test_of_a_line_that_ends_over_a_sensitive_mail_only_the_codes_are_kept():
    """And so it is told to all who had hoped for that line."""
    steps = [*entering("PLAIN"), *sending((), at_dot=f"421 4.7.0 bye {QUOTED}")]
    sent = [mail(sensitive=True), mail(number=2)]
    told = play(secret_relay("PLAIN").send(sent), steps)
    assert letters(told) == "TN"
    assert not [text for text in texts(told) if "hello" in text]
    assert all("421 4.7.0" in outcome.text for outcome in told.outcomes)


def test_what_is_told_of_another_mail_quotes_no_sensitive_one_that_is_on_its_way():
    second = [(MAIL, "250 2.1.0"), (RCPT, "250 2.1.5"), (CHUNK, f"250 2.1.5 {QUOTED}")]
    script = [*entering("PLAIN", *WAYS["in chunks"]), *TELLING, second, BEHIND]
    sent = [mail(), mail(number=2), mail(number=3, sensitive=True)]
    told = play(secret_relay("PLAIN").send(sent), script)
    assert letters(told) == "AUU"
    assert not [each for each in texts(told) if "hello" in each]


def test_a_plain_break_says_what_it_always_says():
    *envelope, (content, _) = sending(())
    told = told_by("PLAIN", [*envelope, (content, GONE)], (), mail(sensitive=True))
    assert "the line is gone" in texts(told)[0]
