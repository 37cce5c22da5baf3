"""What is written, part by part, and what the envelope says."""

import copy
import json
import pickle
import re
from email import message_from_bytes
from email.policy import default

import pytest

from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import (
    BadHeaderError,
    MessageError,
    MissingFieldError,
    UnsupportedFeature,
)
from flask_outbox.mail.message import Attachment, Invitation, Message
from flask_outbox.mail.mime import blocks, seal
from flask_outbox.mail.submission import Dsn

ICS = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"


def mail(**fields):
    plain = {"subject": "s", "recipients": ["a@x.test"], "body": "b", "sender": "s@x.test"}
    return Message(**{**plain, **fields})


def sealed(message=None, **options):
    return seal(message or mail(), now=1_000_000_000.5, **options)


def parsed(message, **options):
    return message_from_bytes(sealed(message, **options).content, policy=default)


def header(content, name):
    head = content.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").decode()
    return [line for line in head.split("\r\n") if line.lower().startswith(f"{name.lower()}:")]


def shape(part):
    """The tree of types, as nested lists."""
    if part.get_content_maintype() == "multipart":
        return [part.get_content_subtype(), *map(shape, part.iter_parts())]
    return part.get_content_type()


class TestTheWhole:
    def test_the_smallest_mail_is_these_bytes(self):
        message = mail()
        message.msgId = "<1@x.test>"
        assert sealed(message).content == (
            b"Date: Sun, 09 Sep 2001 01:46:40 +0000\r\n"
            b"From: s@x.test\r\n"
            b"To: a@x.test\r\n"
            b"Subject: s\r\n"
            b"Message-ID: <1@x.test>\r\n"
            b"MIME-Version: 1.0\r\n"
            b'Content-Type: text/plain; charset="utf-8"\r\n'
            b"Content-Transfer-Encoding: 7bit\r\n"
            b"\r\n"
            b"b\r\n"
        )

    def test_the_same_message_gives_the_same_bytes(self):
        message = mail(html="<p>x</p>")
        message.attach("a.bin", None, b"x")
        assert sealed(message).content == sealed(message).content

    def test_blocks_joined_are_the_content(self):
        message = mail(html="<p>x</p>")
        message.attach("a.bin", None, b"x" * 200_000)
        pieces = list(blocks(message, now=1_000_000_000.5))
        assert b"".join(pieces) == sealed(message).content
        assert max(map(len, pieces)) < 100_000

    def test_sealing_changes_nothing_but_the_message_id(self):
        message = mail(html="<p>x</p>", cc=["c@x.test"])
        before = {**copy.deepcopy(message.__dict__), "msgId": message.msgId}
        sealed(message)
        assert message.__dict__ == before
        assert message.date is None

    def test_the_date_is_the_messages_else_now(self):
        assert sealed(mail(date=0.0)).date == 0.0
        assert header(sealed(mail(date=0.0)).content, "Date") == [
            "Date: Thu, 01 Jan 1970 00:00:00 +0000"
        ]
        assert sealed(mail()).date == 1_000_000_000.5

    @pytest.mark.parametrize("date", ["today", "5", float("nan"), float("inf"), 1e30, -1e30])
    def test_a_date_that_is_none_is_refused(self, date):
        with pytest.raises(MessageError, match=r"^date must"):
            sealed(mail(date=date))

    def test_dates_of_other_centuries_are_right(self):
        for date, text in (
            (-1, "Wed, 31 Dec 1969 23:59:59"),
            (4107542399, "Sun, 28 Feb 2100 23:59:59"),
        ):
            assert header(sealed(mail(date=date)).content, "Date") == [f"Date: {text} +0000"]


class TestTheEnvelope:
    def test_it_holds_to_cc_and_bcc_in_order_each_mailbox_once(self):
        message = mail(
            recipients=["b@x.test", "Ann <a@X.test>", "b@x.test"],
            cc=["a@x.test", "c@x.test"],
            bcc=["d@x.test", "B@x.test"],
        )
        sub = sealed(message)
        assert sub.recipients == ("b@x.test", "a@x.test", "c@x.test", "d@x.test", "B@x.test")
        assert header(sub.content, "To") == ["To: b@x.test, Ann <a@x.test>"]
        assert header(sub.content, "Cc") == ["Cc: a@x.test, c@x.test"]

    def test_bcc_is_nowhere_in_the_content(self):
        content = sealed(mail(bcc=["Hidden <hidden@x.test>"])).content
        assert b"idden" not in content
        assert header(content, "Bcc") == []

    def test_a_mail_of_bcc_alone_has_no_to(self):
        content = sealed(mail(recipients=[], bcc=["h@x.test"])).content
        assert header(content, "To") == []

    def test_header_and_envelope_hold_the_same_canonical_address(self):
        sub = sealed(mail(recipients=["a@FAß.de"]))
        assert sub.recipients == ("a@xn--fa-hia.de",)
        assert header(sub.content, "To") == ["To: a@xn--fa-hia.de"]

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            (None, "s@x.test"),
            ("b@X.test", "b@x.test"),
            ("", ""),
            ("<>", ""),
            ("B <b@x.test>", "b@x.test"),
        ],
    )
    def test_bounces_go_to_the_return_path_else_to_the_sender(self, path, expected):
        assert sealed(return_path=path).sender == expected

    def test_utf8_is_asked_for_only_where_a_local_part_is_not_ascii(self):
        assert not sealed(mail(subject="ü", recipients=[("ü", "a@ü.test")])).utf8
        sub = sealed(mail(recipients=[("ü", "ü@ü.test")]))
        assert sub.utf8
        assert "ü@xn--tda.test".encode() in sub.content
        assert sealed(mail(bcc=["ü@x.test"])).utf8
        assert sealed(return_path="ü@x.test").utf8

    def test_a_repeated_tag_counts_once(self):
        assert sealed(mail(tags=["order", "new", "order"])).tags == ("order", "new")

    def test_the_name_of_our_rows_id_is_not_the_apps(self):
        with pytest.raises(MessageError, match="metadata: 'outbox_id' is the id that we add"):
            sealed(mail(metadata={"outbox_id": "mine"}))
        assert sealed(mail(metadata={"my_outbox_id": ""})).metadata == {"my_outbox_id": ""}

    def test_what_is_for_the_transport_goes_along(self):
        sub = sealed(
            mail(
                mail_options=["BODY=8BITMIME"],
                rcpt_options=["NOTIFY=NEVER"],
                tags=["a"],
                metadata={"k": "v"},
                sensitive=True,
                at_most_once=True,
                dsn=Dsn(notify={"*": ("failure",)}, ret="HDRS", envid="e"),
            ),
            transport="other",
        )
        assert sub.mail_options == ("BODY=8BITMIME",)
        assert sub.rcpt_options == ("NOTIFY=NEVER",)
        assert sub.tags == ("a",)
        assert sub.metadata == {"k": "v"}
        assert sub.sensitive
        assert sub.at_most_once
        assert sub.dsn == Dsn(notify={"*": ("FAILURE",)}, ret="HDRS", envid="e")
        assert sub.transport == "other"

    @pytest.mark.parametrize(
        "dsn",
        [
            Dsn(notify={"*": ("NEVER", "FAILURE")}),
            Dsn(notify={"*": ()}),
            Dsn(notify={"*": ("LATER",)}),
            Dsn(notify={"else@x.test": ("NEVER",)}),
            Dsn(notify={"nobody": ("NEVER",)}),
            Dsn(ret="ALL"),
            Dsn(envid=""),
            Dsn(envid="é"),
            Dsn(envid="x" * 101),
        ],
    )
    def test_a_request_for_notifications_that_cannot_be_is_refused(self, dsn):
        with pytest.raises(MessageError, match=r"^dsn"):
            sealed(mail(dsn=dsn))

    def test_a_request_for_notifications_names_canonical_recipients(self):
        message = mail(dsn=Dsn(notify={"a@X.TEST": ("NEVER",)}))
        assert sealed(message).dsn == Dsn(notify={"a@x.test": ("NEVER",)})

    @pytest.mark.parametrize("options", [["A B"], [""], ["ü"], "SIZE=1"])
    @pytest.mark.parametrize("field", ["mail_options", "rcpt_options"])
    def test_an_option_is_one_word(self, field, options):
        message = mail()
        setattr(message, field, options)
        with pytest.raises(MessageError, match=rf"^{field}"):
            sealed(message)


class TestWhatIsMissing:
    def test_no_sender_is_said_and_is_also_an_assertion_error(self):
        with pytest.raises(MissingFieldError, match="MAIL_DEFAULT_SENDER") as raised:
            sealed(mail(sender=None))
        assert isinstance(raised.value, AssertionError)
        assert isinstance(raised.value, ValueError)

    def test_no_recipients_is_said(self):
        with pytest.raises(MissingFieldError, match="No recipients have been added"):
            sealed(mail(recipients=[]))

    def test_no_subject_is_no_header(self):
        assert header(sealed(mail(subject="")).content, "Subject") == []
        assert header(sealed(mail(subject=None)).content, "Subject") == []

    def test_no_body_at_all_is_an_empty_text(self):
        assert shape(parsed(mail(body=None))) == "text/plain"

    def test_recipients_of_none_may_stand_beside_others(self):
        message = mail(cc=["c@x.test"])
        message.recipients = None
        assert sealed(message).recipients == ("c@x.test",)

    def test_html_without_a_body_is_html_alone(self):
        assert shape(parsed(mail(body=None, html="<p>x</p>"))) == "text/html"


class TestRecipientLists:
    @pytest.mark.parametrize("field", ["recipients", "cc", "bcc"])
    @pytest.mark.parametrize("value", ["a@x.test", b"a@x.test", Address("", "a@x.test")])
    def test_a_lone_address_is_refused_when_composed_and_when_set(self, field, value):
        with pytest.raises(MessageError, match=rf"^{field} must be a list"):
            mail(**{field: value})
        message = mail()
        setattr(message, field, value)
        with pytest.raises(MessageError, match=rf"^{field} must be a list"):
            sealed(message)

    def test_the_callers_lists_are_copied(self):
        file = Attachment("f", None, b"x")
        to, files, headers = ["a@x.test"], [file], {"X-A": "1"}
        message = mail(recipients=to, cc=to, attachments=files, extra_headers=headers)
        message.add_recipient("b@x.test")
        message.attach("a", None, b"x")
        message.extra_headers["X-B"] = "2"
        assert to == ["a@x.test"]
        assert files == [file]
        assert headers == {"X-A": "1"}

    def test_send_to_is_a_set_of_all(self):
        message = mail(cc=["c@x.test"], bcc=["a@x.test"])
        assert message.send_to == {"a@x.test", "c@x.test"}

    @pytest.mark.parametrize("phrase", ["Nächrichten, 新", '"Nächrichten, 新"'])
    def test_a_list_id_by_hand_is_encoded_but_for_the_id(self, phrase):
        by_hand = sealed(mail(extra_headers={"List-Id": f"{phrase} <news.x.test>"})).content
        typed = sealed(mail(list_id=("Nächrichten, 新", "news.x.test"))).content
        assert header(by_hand, "List-Id") == header(typed, "List-Id")
        with pytest.raises(MessageError, match="list_id"):
            sealed(mail(extra_headers={"List-Id": "Nächrichten"}))

    def test_reply_to_may_be_one_or_a_list(self):
        assert header(sealed(mail(reply_to=("R", "r@x.test"))).content, "Reply-To") == [
            "Reply-To: R <r@x.test>"
        ]
        assert header(sealed(mail(reply_to=["r@x.test", "q@x.test"])).content, "Reply-To") == [
            "Reply-To: r@x.test, q@x.test"
        ]


class TestTheMessageId:
    def test_it_is_made_when_first_read_with_the_senders_domain(self):
        message = mail(sender=("S", "s@Shop.test"))
        assert "msgId" not in message.__dict__
        made = message.msgId
        assert re.fullmatch(r"<[0-9a-f]{32}@shop\.test>", made)
        assert message.msgId == made
        assert sealed(message).message_id == made

    def test_two_messages_have_two(self):
        assert mail().msgId != mail().msgId

    def test_it_can_be_set_and_extra_headers_replace_it(self):
        message = mail(extra_headers={"message-id": "<other@x.test>"})
        message.msgId = "<1@x.test>"
        sub = sealed(message)
        assert sub.message_id == "<other@x.test>"
        assert header(sub.content, "Message-ID") == ["message-id: <other@x.test>"]

    @pytest.mark.parametrize("sender", [None, "", "nobody", "a@ü.test", ("x", "y"), "a@[::1]"])
    def test_a_sender_without_a_plain_domain_gives_localhost(self, sender):
        message = Message(sender=sender)
        assert message.msgId.endswith("@localhost>")

    @pytest.mark.parametrize("text", ["", "x", "<x", "<a b@x>", "<é@x>", "<a@b> <c@d>", "<>"])
    def test_what_is_none_is_refused(self, text):
        message = mail()
        message.msgId = text
        with pytest.raises(BadHeaderError, match=r"^msgId must look like"):
            sealed(message)


class TestHeaders:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((name, "other@x.test") for name in ("Subject", "TO", "Cc", "From", "Reply-To")),
            *((name, "<1@x.test>") for name in ("Message-ID", "References")),
            ("Date", "Tue, 01 Jul 2025 10:00:00 +0200"),
        ],
    )
    def test_extra_headers_replace_and_never_duplicate(self, name, value):
        message = mail(
            cc=["c@x.test"], reply_to="r@x.test", references=["<0@x>"], extra_headers={name: value}
        )
        assert header(sealed(message).content, name) == [f"{name}: {value}"]

    def test_an_empty_extra_header_takes_ours_away(self):
        assert header(sealed(mail(extra_headers={"Subject": ""})).content, "Subject") == []

    def test_two_of_one_name_in_other_cases_are_one(self):
        content = sealed(mail(extra_headers={"X-A": "1", "x-a": "2"})).content
        assert header(content, "X-A") == ["x-a: 2"]

    @pytest.mark.parametrize(
        "name", ["Bcc", "RESENT-BCC", "Content-Type", "MIME-Version", "Content-Transfer-Encoding"]
    )
    def test_what_would_break_the_mail_or_leak_is_refused(self, name):
        with pytest.raises(BadHeaderError, match=r"^extra_headers\["):
            sealed(mail(extra_headers={name: "x"}))

    def test_json_for_a_provider_is_left_as_it_is(self):
        text = json.dumps({"to": ["a@x.test"] * 20, "sub": {"k": "v" * 50}})
        assert header(sealed(mail(extra_headers={"X-SMTPAPI": text})).content, "X-SMTPAPI") == [
            f"X-SMTPAPI: {text}"
        ]

    def test_an_extra_header_with_one_address_may_have_any_name(self):
        found = parsed(mail(extra_headers={"Sender": "Jörg <j@ü.test>"}))
        assert found["sender"].address == Address_like("Jörg", "j@xn--tda.test")

    def test_the_list_headers_are_written_as_their_rfcs_say(self):
        message = mail(
            list_id=("Nöws of", "news.x.test"),
            list_unsubscribe=["https://x.test/u?t=1", "mailto:u@x.test"],
            list_unsubscribe_post=True,
            list_help="mailto:h@x.test",
            list_post="NO",
            list_owner="<mailto:o@x.test>",
            list_archive="https://x.test/a",
            list_subscribe="https://x.test/s",
            in_reply_to="<0@x.test>",
            references="<0@x.test> <00@x.test>",
            auto_submitted="auto-generated",
        )
        content = sealed(message).content
        assert header(content, "List-Id") == ["List-Id: =?utf-8?q?N=C3=B6ws_of?= <news.x.test>"]
        assert header(content, "List-Unsubscribe") == [
            "List-Unsubscribe: <https://x.test/u?t=1>, <mailto:u@x.test>"
        ]
        assert header(content, "List-Unsubscribe-Post") == [
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click"
        ]
        assert header(content, "List-Help") == ["List-Help: <mailto:h@x.test>"]
        assert header(content, "List-Post") == ["List-Post: NO"]
        assert header(content, "List-Owner") == ["List-Owner: <mailto:o@x.test>"]
        assert header(content, "List-Archive") == ["List-Archive: <https://x.test/a>"]
        assert header(content, "List-Subscribe") == ["List-Subscribe: <https://x.test/s>"]
        assert header(content, "In-Reply-To") == ["In-Reply-To: <0@x.test>"]
        assert header(content, "References") == ["References: <0@x.test> <00@x.test>"]
        assert header(content, "Auto-Submitted") == ["Auto-Submitted: auto-generated"]

    @pytest.mark.parametrize("urls", [(), "mailto:u@x.test", "http://x.test/u"])
    def test_one_click_needs_an_https_url(self, urls):
        with pytest.raises(MessageError, match="https"):
            sealed(mail(list_unsubscribe=urls, list_unsubscribe_post=True))

    @pytest.mark.parametrize(
        "url", ["x.test/u", "https://x.test/a b", "https://ü.test/", "<>", "NO"]
    )
    def test_a_list_url_is_a_url(self, url):
        with pytest.raises(MessageError, match=r"^list_unsubscribe must be a URL"):
            sealed(mail(list_unsubscribe=url))

    @pytest.mark.parametrize("list_id", ["a b", "ü.test", ("x", ""), "a>b"])
    def test_a_list_id_is_a_dotted_name(self, list_id):
        with pytest.raises(BadHeaderError, match=r"^list_id"):
            sealed(mail(list_id=list_id))

    @pytest.mark.parametrize(
        "charset",
        [
            "utf-16",
            "nonsense",
            "rot13",
            "utf-7\0",
            "hex",
            "idna\n",
            "latin-1\n",
            "utf-8 ",
            "idna",
            "unicode_escape",
            "utf-8-sig",
            "ütf-8",
        ],
    )
    def test_a_charset_that_mail_cannot_use_is_refused(self, charset):
        with pytest.raises(MessageError, match=r"^charset"):
            sealed(mail(charset=charset))

    def test_shift_jis_goes_out_as_iso_2022_jp_and_stays_seven_bits(self):
        message = mail(subject="日本", body="日本", charset="shift_jis")
        content = sealed(message).content
        assert b'charset="iso-2022-jp"' in content
        assert b"Subject: =?iso-2022-jp?" in content
        assert content.isascii()

    def test_what_a_charset_lacks_goes_out_as_utf_8(self):
        content = sealed(mail(subject="☃", body="☃", charset="iso-8859-1")).content
        assert b'charset="utf-8"' in content
        assert b"=?utf-8?" in content

    def test_bytes_and_lazy_strings_are_resolved(self):
        class Lazy:
            def __str__(self):
                return "lazy"

        assert parsed(mail(subject=Lazy()))["subject"] == "lazy"
        assert parsed(mail(subject="ü".encode()))["subject"] == "ü"
        assert parsed(mail(body=Lazy())).get_content() == "lazy\r\n"

    @pytest.mark.parametrize("field", ["subject", "body", "html"])
    def test_bytes_that_are_no_text_are_refused(self, field):
        with pytest.raises(MessageError, match=rf"^{field} has bytes"):
            sealed(mail(**{field: b"\xff"}))

    @pytest.mark.parametrize("field", ["body", "html"])
    def test_a_lone_surrogate_in_a_body_is_refused(self, field):
        with pytest.raises(MessageError, match=rf"^{field} has a lone surrogate"):
            sealed(mail(**{field: "a\ud800"}))


class TestThePartsTree:
    def test_alternatives_come_plainest_first_and_keep_their_keys(self):
        message = mail(alts={"html": "<p>", "x-amp-html": "<html ⚡4email>"})
        assert shape(parsed(message)) == [
            "alternative",
            "text/plain",
            "text/html",
            "text/x-amp-html",
        ]

    def test_html_given_as_an_alternative_is_kept(self):
        assert mail(alts={"html": "<p>"}).html == "<p>"
        assert shape(parsed(mail(alts=[("html", "<p>")]))) == [
            "alternative",
            "text/plain",
            "text/html",
        ]

    def test_an_image_by_content_id_stands_beside_the_html(self):
        message = mail(html="<img src='cid:a@x'>")
        message.attach("a.png", "image/png", b"x", cid="a@x")
        message.attach("b.pdf", "application/pdf", b"x")
        assert shape(parsed(message)) == [
            "mixed",
            ["alternative", "text/plain", ["related", "text/html", "image/png"]],
            "application/pdf",
        ]

    def test_flask_mails_way_of_an_inline_image_does_the_same(self):
        message = mail(html="<img src='cid:a@x'>")
        message.attach("a.png", "image/png", b"x", "inline", {"Content-ID": "<a@x>"})
        tree = parsed(message)
        assert shape(tree) == ["alternative", "text/plain", ["related", "text/html", "image/png"]]
        assert "Content-ID: <a@x>" in tree.as_string()

    def test_inline_gives_the_url_and_the_same_image_the_same_one(self):
        message = mail()
        url = message.inline("a.png", None, b"x")
        assert url == mail().inline("b.png", None, b"x")
        message.html = f"<img src='{url}'>"
        image = next(p for p in parsed(message).walk() if p.get_content_type() == "image/png")
        assert image["content-id"] == f"<{url.removeprefix('cid:')}>"
        assert image.get_content_disposition() == "inline"

    def test_an_inline_image_without_html_is_an_attachment_like_others(self):
        message = mail()
        message.attach("a.png", "image/png", b"x", cid="a@x")
        assert shape(parsed(message)) == ["mixed", "text/plain", "image/png"]

    def test_an_invitation_is_an_alternative_with_its_method(self):
        message = mail(html="<p>", invitation=Invitation(ICS))
        tree = parsed(message)
        assert shape(tree) == ["alternative", "text/plain", "text/html", "text/calendar"]
        part = list(tree.walk())[-1]
        assert part["content-type"].params["method"] == "REQUEST"
        assert part.get_payload(decode=True).decode() == ICS

    def test_an_invitation_may_be_plain_text(self):
        tree = parsed(mail(invitation=ICS.replace("REQUEST", "CANCEL")))
        assert list(tree.walk())[-1]["content-type"].params["method"] == "CANCEL"

    def test_an_invitations_method_agrees_with_its_content(self):
        with pytest.raises(MessageError, match=r"^invitation"):
            Invitation(ICS, method="CANCEL")
        with pytest.raises(MessageError, match=r"^invitation"):
            Invitation("BEGIN:VCALENDAR")

    def test_the_text_is_made_from_the_html_only_where_asked_for_and_missing(self):
        message = mail(body=None, html="<p>Hi <a href='https://x.test'>you</a></p>")
        assert shape(parsed(message)) == "text/html"
        tree = parsed(message, text_from_html=True)
        assert shape(tree) == ["alternative", "text/plain", "text/html"]
        assert tree.get_body(("plain",)).get_content() == "Hi you <https://x.test>\n".replace(
            "\n", "\r\n"
        )
        given = parsed(mail(body="mine", html="<p>x</p>"), text_from_html=True)
        assert given.get_body(("plain",)).get_content() == "mine"

    def test_an_alternative_of_none_is_none(self):
        assert shape(parsed(mail(alts={"html": None}))) == "text/plain"
        assert shape(parsed(mail(body=None, alts={"html": None}))) == "text/plain"

    def test_a_key_in_capitals_is_the_same_subtype(self):
        message = mail(alts={"HTML": "<p>"})
        message.attach("a.png", "image/png", b"x", cid="a@x")
        assert shape(parsed(message)) == [
            "alternative",
            "text/plain",
            ["related", "text/html", "image/png"],
        ]

    @pytest.mark.parametrize(
        ("fields", "both"),
        [
            ({"alts": {"plain": "two"}}, r"body and alts\[plain\] are both text/plain"),
            ({"alts": {"Plain": "two"}}, r"body and alts\[Plain\] are both text/plain"),
            ({"alts": {"html": "1", "HTML": "2"}}, r"html and alts\[HTML\] are both text/html"),
            ({"alts": {"x-a": "1", "X-A": "2"}}, r"alts\[x-a\] and alts\[X-A\] are both text/x-a"),
            (
                {"alts": {"calendar": "1"}, "invitation": "METHOD:REQUEST"},
                r"alts\[calendar\] and invitation are both text/calendar",
            ),
        ],
    )
    def test_two_texts_of_one_subtype_are_refused_by_the_names_of_both(self, fields, both):
        with pytest.raises(MessageError, match=f"^{both}; leave one of them out$"):
            sealed(mail(**fields))

    def test_a_plain_alternative_goes_before_the_text_that_html_would_make(self):
        message = mail(body=None, alts={"html": "<p>derived</p>", "plain": "mine"})
        tree = parsed(message, text_from_html=True)
        assert shape(tree) == ["alternative", "text/plain", "text/html"]
        assert tree.get_body(("plain",)).get_content() == "mine"

    def test_an_alternatives_key_is_a_subtype(self):
        with pytest.raises(BadHeaderError, match=r"^alts"):
            sealed(mail(alts={"a/b": "x"}))


class TestTransferEncodings:
    @pytest.mark.parametrize(
        ("body", "coding"),
        [
            ("plain", "7bit"),
            ("x" * 998, "7bit"),
            ("x" * 999, "quoted-printable"),
            (f"{'x' * 998}\n{'y' * 998}", "7bit"),
            (f"{'x' * 900}\n{'y' * 999}\n", "quoted-printable"),
            ("NUL \0 in a line of text", "quoted-printable"),
            ("Grüße aus Köln, mit viel ASCII darum herum", "quoted-printable"),
            ("漢字" * 50, "base64"),
        ],
    )
    def test_the_shorter_one_is_taken_and_ascii_stays_readable(self, body, coding):
        part = parsed(mail(body=body))
        assert part["content-transfer-encoding"] == coding
        assert part.get_payload(decode=True).decode().splitlines() == body.splitlines()

    def test_an_attachment_keeps_every_byte(self):
        data = bytes(range(256)) * 300 + b"\r\n\n\r"
        message = mail()
        message.attach("a.bin", None, data)
        found = next(iter(parsed(message).iter_attachments()))
        assert found.get_payload(decode=True) == data

    def test_a_text_attachment_is_utf_8_with_its_charset_and_its_line_ends(self):
        message = mail()
        message.attach("a.csv", None, "ä;b\nc;d\r\n")
        part = next(iter(parsed(message).iter_attachments()))
        assert part["content-type"] == 'text/csv; charset="utf-8"'
        assert part.get_payload(decode=True).decode() == "ä;b\nc;d\r\n"

    @pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 57 * 1024 - 1, 57 * 1024, 57 * 1024 + 1])
    def test_blocks_of_any_size_are_one_stream(self, size):
        data = bytes(at % 251 for at in range(size))
        for step in (1000, 57, 100_000):
            message = mail()
            message.msgId = "<1@x.test>"
            message.attach("a.bin", None, [data[at : at + step] for at in range(0, size, step)])
            whole = mail()
            whole.msgId = "<1@x.test>"
            whole.attach("a.bin", None, data)
            assert sealed(message).content == sealed(whole).content
            part = next(iter(parsed(message).iter_attachments()))
            assert part.get_payload(decode=True) == data

    @pytest.mark.parametrize("data", [7, ["text"], [None], object()])
    def test_what_is_neither_bytes_nor_blocks_is_refused(self, data):
        message = mail()
        message.attach("a.bin", "application/x-bin", data)
        with pytest.raises(MessageError, match=r"^attachments: data"):
            sealed(message)

    def test_a_message_inside_is_left_as_it_is(self):
        inner = b"Subject: =?utf-8?q?=C3=BC?=\nDKIM-Signature: x\n\nbody \n"
        message = mail()
        message.attach("m.eml", "message/rfc822", inner)
        content = sealed(message).content
        assert b"Content-Transfer-Encoding: 7bit\r\n" in content
        assert inner.replace(b"\n", b"\r\n") in content

    def test_a_message_inside_of_eight_bits_makes_all_around_it_say_so(self):
        message = mail(html="<p>")
        message.attach("m.eml", "message/rfc822", "Subject: ü\r\n\r\nü\r\n".encode())
        sub = sealed(message)
        assert header(sub.content, "Content-Transfer-Encoding") == [
            "Content-Transfer-Encoding: 8bit"
        ]
        assert not sub.utf8
        assert sub.content.count(b"Content-Transfer-Encoding: 8bit") == 2

    @pytest.mark.parametrize("inner", [b"Subject: x\n\n\0", b"X: " + b"y" * 1000 + b"\n\n"])
    def test_a_message_inside_that_no_line_can_carry_is_refused(self, inner):
        message = mail()
        message.attach("m.eml", "message/rfc822", inner)
        with pytest.raises(MessageError, match=r"^attachments has a message"):
            sealed(message)

    def test_a_boundary_is_never_found_in_a_part(self):
        first = sealed(mail(html="<p>"))
        token = re.search(rb'boundary="(=_[0-9a-f]+)_', first.content)[1].decode()
        message = mail(
            body=f"\n--{token}_2\nContent-Type: text/html\n\nevil\n--{token}_2--\n", html="<p>"
        )
        message.msgId = first.message_id
        tree = parsed(message)
        assert shape(tree) == ["alternative", "text/plain", "text/html"]
        assert "evil" in tree.get_body(("plain",)).get_content()

    @pytest.mark.parametrize(
        "kind", ["text", "x/" + "y" * 400, "a/b/c", "text/x; y", "multipart/mixed", "ü/x", "", None]
    )
    def test_a_content_type_is_one(self, kind):
        message = mail()
        message.attach("a", "text/plain", b"x")
        message.attachments[0].content_type = kind
        with pytest.raises(MessageError, match=r"^attachments: content_type"):
            sealed(message)

    def test_a_content_type_may_have_parameters(self):
        message = mail()
        message.attach("a", 'text/x-y; charset=latin-1; name="q; r"', b"x")
        part = next(iter(parsed(message).iter_attachments()))
        assert part["content-type"].params == {"charset": "latin-1", "name": "q; r"}

    @pytest.mark.parametrize("name", ["Content-Type", "content-transfer-encoding"])
    def test_a_parts_own_headers_do_not_undo_ours(self, name):
        message = mail()
        message.attach("a", None, b"x", None, {name: "x"})
        with pytest.raises(BadHeaderError, match=r"^attachments: headers"):
            sealed(message)

    def test_a_parts_own_headers_replace_the_rest(self):
        message = mail()
        message.attach("a", None, b"x", None, {"Content-Disposition": "form-data", "X-U": "ü"})
        part = next(iter(parsed(message).iter_attachments()))
        assert part.get_all("content-disposition") == ["form-data"]
        assert part["x-u"] == "ü"


class TestShapesThatAppsPassAround:
    def test_a_message_is_made_from_a_dict_of_json(self):
        data = json.loads(
            json.dumps({"subject": "s", "recipients": [["A", "a@x.test"]], "body": "b"})
        )
        message = Message(**data, sender=["S", "s@x.test"])
        assert header(sealed(message).content, "To") == ["To: A <a@x.test>"]

    def test_a_pickled_message_seals_to_the_same_bytes(self):
        message = mail(html="<p>", tags=["a"], metadata={"k": "v"})
        message.attach("a.bin", None, b"x")
        again = pickle.loads(pickle.dumps(message))  # noqa: S301  our own
        assert sealed(again).content != b""
        message.msgId  # noqa: B018  made when first read, and then taken along
        again = pickle.loads(pickle.dumps(message))  # noqa: S301  our own
        assert sealed(again).content == sealed(message).content

    def test_a_dict_update_carries_a_message_over(self):
        message = mail(html="<p>", cc=["c@x.test"])
        message.msgId = "<1@x.test>"
        other = Message()
        other.__dict__.update(message.__dict__)
        assert sealed(other).content == sealed(message).content

    def test_a_message_of_flask_mails_fields_alone_lacks_nothing(self):
        message = Message.__new__(Message)
        message.__dict__.update(
            recipients=["a@x.test"], subject="s", sender="s@x.test", reply_to=None, cc=[], bcc=[],
            body="b", alts={}, date=None, msgId="<1@x.test>", charset=None, extra_headers=None,
            mail_options=[], rcpt_options=[], attachments=[],
        )  # fmt: skip
        message.__dict__.pop("reply_to")
        file = Attachment.__new__(Attachment)
        file.__dict__.update(filename="f", content_type="text/plain", data="x", headers={})
        file.disposition = "attachment"
        message.attachments.append(file)
        assert sealed(message).message_id == "<1@x.test>"

    def test_a_copy_has_its_own_message_id_unless_it_was_read(self):
        message = mail()
        assert copy.copy(message).msgId != message.msgId
        assert copy.copy(message).msgId == message.msgId

    def test_positions_are_flask_mails(self):
        message = Message(
            "s", ["a@x.test"], "b", "<p>", {"x": "y"}, "s@x.test", ["c@x.test"], ["d@x.test"],
            [Attachment("f", "text/plain", "x")], "r@x.test", 1.0, "utf-8", {"X-A": "1"},
            ["M"], ["R"],
        )  # fmt: skip
        assert message.html == "<p>"
        assert message.alts == {"x": "y", "html": "<p>"}
        assert (message.reply_to, message.date, message.charset) == ("r@x.test", 1.0, "utf-8")
        assert (message.mail_options, message.rcpt_options) == (["M"], ["R"])

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (("tester", "t@x.test"), "tester <t@x.test>"),
            (("Doe, John", "j@x.test"), '"Doe, John" <j@x.test>'),
            (Address("A", "a@x.test"), "A <a@x.test>"),
            ("a@x.test", "a@x.test"),
        ],
    )
    def test_a_sender_reads_back_as_text(self, given, kept):
        assert mail(sender=given).sender == kept

    @pytest.mark.parametrize(
        ("name", "data", "kind"),
        [
            ("a.png", b"x", "image/png"),
            ("a.unknown-thing", b"x", "application/octet-stream"),
            (None, b"x", "application/octet-stream"),
            (None, "x", "text/plain"),
            ("a.pdf", "x", "application/pdf"),
        ],
    )
    def test_the_type_of_an_attachment_is_guessed(self, name, data, kind):
        assert Attachment(name, None, data).content_type == kind

    def test_an_attachment_without_data_is_refused(self):
        with pytest.raises(ValueError, match="data"):
            mail().attach("a.txt")

    def test_html_none_takes_the_alternative_away(self):
        message = mail(html="<p>")
        message.html = None
        assert message.alts == {}


def Address_like(name, addr):  # noqa: N802  reads as a value
    from email.headerregistry import Address as Parsed  # noqa: PLC0415  for one comparison

    assert issubclass(UnsupportedFeature, MessageError)
    return Parsed(name, addr_spec=addr)
