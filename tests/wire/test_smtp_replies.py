import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_outbox.mail.exchange import SmtpReply
from flask_outbox.wire.smtp_replies import MOST_BUFFERED, MOST_LINES, Replies


def heard(*segments: bytes) -> Replies:
    replies = Replies()
    for segment in segments:
        replies.feed(segment)
    return replies


def all_of(replies: Replies) -> list[SmtpReply]:
    return list(iter(replies.take, None))


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (b"250 ok\r\n", SmtpReply(250, ("ok",))),
        (b"250\r\n", SmtpReply(250, ("",))),
        (b"250 \r\n", SmtpReply(250, ("",))),
        (b"250-\r\n250\r\n", SmtpReply(250, ("", ""))),
        (b"250-a\r\n250-SIZE 10\r\n250 c\r\n", SmtpReply(250, ("a", "SIZE 10", "c"))),
        (b"550 5.1.1 no such user\r\n", SmtpReply(550, ("5.1.1 no such user",))),
        ("550 <jos\u00e9@example.org>\r\n".encode(), SmtpReply(550, ("<jos\u00e9@example.org>",))),
        (b"250 a\x1b[2Jb\0\r\n", SmtpReply(250, ("a\ufffd[2Jb\ufffd",))),
        ("250 a\u202eb\r\n".encode(), SmtpReply(250, ("a\ufffdb",))),
    ],
)
def test_a_whole_reply_is_read(said, reply):
    assert all_of(heard(said)) == [reply]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"ok\r\n", "no code"),
        (b"\r\n", "no code"),
        (b"25\r\n", "no code"),
        (b"25 ok\r\n", "no code"),
        (b"2500 ok\r\n", "no code"),
        (b"250_ok\r\n", "no code"),
        (b" 250 ok\r\n", "no code"),
        (b"+25 ok\r\n", "no code"),
        (b"099 ok\r\n", "no code"),
        (b"150 ok\r\n", "no code"),
        (b"600 ok\r\n", "no code"),
        ("\u00b250 ok\r\n".encode(), "no code"),
        ("\u0662\u0665\u0660 ok\r\n".encode(), "no code"),
        (b"\xff\xfe2\x005\x00\r\n", "no code"),
        (b"250 \xff\r\n", "neither ASCII nor UTF-8"),
        (b"250 ok\n", "CRLF"),
        (b"250-a\n250 b\r\n", "CRLF"),
        (b"250-fine\r\n550 no\r\n", "codes 250 and 550"),
        (b"550-no\r\n250 fine\r\n", "codes 550 and 250"),
        (b"250-a\r\n\r\n", "no code"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no code"),
        (b"\x15\x03\x01\x00\x02\x02\n", "CRLF"),
    ],
)
def test_what_is_no_reply_is_an_error_and_never_250_by_luck(said, why):
    replies = heard(said)
    assert replies.take() is None
    assert why in replies.error


def test_the_whole_replies_before_rubbish_are_still_handed_out():
    replies = heard(b"250 first\r\n250 second\r\nrubbish\r\n250 never\r\n")
    assert all_of(replies) == [SmtpReply(250, ("first",)), SmtpReply(250, ("second",))]
    assert replies.error


def test_an_error_never_quotes_what_was_said_since_a_server_may_echo_a_password():
    assert "s3cret" not in heard(b"AUTH PLAIN s3cret?\r\n").error


@pytest.mark.parametrize(
    "said",
    [b"2" * 200_000, b"250 " + b"x" * 200_000, b"250-x\r\n" * 10_000, b"250-" + b"x" * 70_000],
    ids=["a line without end", "a text without end", "10,000 lines", "a long first line"],
)
@pytest.mark.parametrize("segment", [1_000, 16_384])
def test_what_never_ends_is_given_up_within_64_kb(said, segment):
    replies = Replies()
    fed = 0
    while not replies.error:
        part = said[fed : fed + min(segment, replies.room)]
        assert part, "all was swallowed"
        replies.feed(part)
        fed += len(part)
    assert fed <= MOST_BUFFERED
    assert replies.room == 0


def test_whole_replies_that_nobody_takes_leave_no_room_until_they_are_taken():
    replies = heard(b"250 " + b"x" * (MOST_BUFFERED - 106) + b"\r\n", b"250 " + b"y" * 96)
    assert replies.room == 0
    assert not replies.error
    assert replies.take()
    assert replies.room == MOST_BUFFERED - 100


def test_a_reply_of_the_most_lines_less_one_is_still_read():
    replies = heard(b"250-x\r\n" * (MOST_LINES - 1) + b"250 x\r\n")
    assert len(all_of(replies)[0].lines) == MOST_LINES


def test_the_greeting_is_owed_and_each_reply_taken_is_owed_no_more():
    replies = Replies()
    assert replies.owed == 1
    replies.feed(b"220 hello\r\n")
    assert not replies.out_of_turn
    replies.take()
    assert replies.at_rest


@pytest.mark.parametrize("said", [b"421 bye\r\n", b"4", b"250-a\r\n", b"rubbish\r\n"])
def test_anything_said_when_nothing_is_owed_is_out_of_turn(said):
    replies = Replies()
    replies.owed = 0
    assert not replies.out_of_turn
    replies.feed(said)
    assert replies.out_of_turn
    assert not replies.at_rest


def test_the_answer_to_the_latest_write_is_found_behind_those_owed_before_it():
    replies = heard(b"250 older\r\n552 latest\r\n")
    assert replies.answer_to_latest(1) == SmtpReply(552, ("latest",))
    assert replies.answer_to_latest(2) is None
    assert len(all_of(replies)) == 2


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
REPLY = st.builds(
    SmtpReply, st.integers(200, 599), st.lists(TEXT, min_size=1, max_size=5).map(tuple)
)


def spell(reply: SmtpReply) -> bytes:
    *more, last = reply.lines
    lines = [f"{reply.code}-{text}\r\n" for text in more] + [f"{reply.code} {last}\r\n"]
    return "".join(lines).encode()


@given(st.lists(REPLY, max_size=6), st.lists(st.integers(1, 60), max_size=30))
def test_however_the_bytes_are_cut_the_replies_are_the_same(sent, cuts):
    stream = b"".join(map(spell, sent))
    replies = Replies()
    taken = []
    for size in [*cuts, len(stream)]:
        part, stream = stream[:size], stream[size:]
        replies.feed(part) if part else None
        taken += all_of(replies)
    assert taken == sent
    assert replies.untouched
    assert replies.room == MOST_BUFFERED


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_at_all_raise_anything(said, size):
    replies = Replies()
    for at in range(0, len(said), size):
        replies.feed(said[at : at + size])
    for reply in all_of(replies):
        assert 200 <= reply.code <= 599
        assert all(line.isprintable() or line == "" for line in reply.lines)


def test_a_reply_of_too_many_lines_is_given_up_however_short_they_are():
    replies = heard(b"250-x\r\n" * MOST_LINES)
    assert "lines" in replies.error
