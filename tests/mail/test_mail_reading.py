"""unseal(), render(), fingerprint() and the text made from HTML."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_outbox.mail.address import Address
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.lenient import render
from flask_outbox.mail.message import Attachment, Invitation, Message
from flask_outbox.mail.mime import fingerprint, seal, unseal
from flask_outbox.mail.submission import Dsn
from flask_outbox.mail.text import text_of


def mail(**fields):
    plain = {"subject": "s", "recipients": ["a@x.test"], "body": "b", "sender": "s@x.test"}
    return Message(**{**plain, **fields})


def unsealed(message):
    return unseal(seal(message, now=1_000_000_000).content)


class TestUnseal:
    def test_everything_comes_back(self):
        message = mail(
            subject="Grüße",
            recipients=[("Doe, John", "j@x.test"), "b@ü.test"],
            cc=["c@x.test"],
            bcc=["d@x.test"],
            reply_to=("R", "r@x.test"),
            sender=("Jürgen", "s@x.test"),
            body="Hallo\nJörg\n",
            html="<p>ü</p>",
            alts={"x-amp-html": "<html amp4email>"},
            extra_headers={"X-A": "1"},
            list_unsubscribe="https://x.test/u",
        )
        message.attach("ä.pdf", None, b"\0\1", headers={"X-P": "2"})
        message.attach("i.png", None, b"png", cid="i@x")
        message.attach("m.eml", "message/rfc822", b"Subject: inner\r\n\r\nx \r\n")
        parts = unsealed(message)
        assert parts.sender == Address("Jürgen", "s@x.test")
        assert parts.to == (Address("Doe, John", "j@x.test"), Address("", "b@xn--tda.test"))
        assert parts.cc == (Address("", "c@x.test"),)
        assert parts.reply_to == (Address("R", "r@x.test"),)
        assert parts.subject == "Grüße"
        assert parts.text == "Hallo\nJörg\n"
        assert parts.html == "<p>ü</p>"
        assert parts.alternatives == {"x-amp-html": "<html amp4email>"}
        assert parts.headers == (("List-Unsubscribe", "<https://x.test/u>"), ("X-A", "1"))
        assert parts.message_id == message.msgId
        assert parts.date == 1_000_000_000
        image, pdf, inner = parts.attachments
        assert (pdf.filename, pdf.content_type, pdf.data) == ("ä.pdf", "application/pdf", b"\0\1")
        assert (pdf.disposition, pdf.cid, pdf.inline) == ("attachment", "", False)
        assert pdf.headers == (("X-P", "2"),)
        assert (image.data, image.cid, image.inline) == (b"png", "i@x", True)
        assert inner.data == b"Subject: inner\r\n\r\nx \r\n"

    def test_an_invitation_comes_back_as_an_alternative(self):
        parts = unsealed(mail(invitation="BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n"))
        assert parts.alternatives["calendar"].startswith("BEGIN:VCALENDAR\n")

    def test_an_address_that_needs_smtputf8_comes_back(self):
        parts = unsealed(mail(recipients=[("ü", "ü@x.test")]))
        assert parts.to == (Address("ü", "ü@x.test"),)

    def test_a_text_attachment_is_no_alternative(self):
        message = mail()
        message.attach("a.txt", None, "attached")
        parts = unsealed(message)
        assert parts.text.rstrip() == "b"
        assert parts.attachments[0].data == b"attached"

    def test_no_body_is_in_its_repr(self):
        message = mail(body="s3cret", html="s3cret")
        message.attach("a.txt", None, "s3cret")
        assert "s3cret" not in repr(unsealed(message))


class TestRender:
    def test_what_can_be_sealed_has_the_same_bytes(self):
        message = mail(html="<p>", cc=["c@x.test"], extra_headers={"X-A": "é"})
        message.attach("a.bin", None, b"x")
        assert render(message, now=5) == seal(message, now=5).content

    @pytest.mark.parametrize(
        "fields",
        [
            {"subject": "a\r\nBcc: e@x.test"},
            {"sender": "s@x.test\r\nBcc: e@x.test"},
            {"recipients": ["a@x.test\r\nBcc: e@x.test"]},
            {"recipients": [("n\r\nBcc: e@x.test", "a@x.test")]},
            {"reply_to": "r@x.test\nBcc: e@x.test"},
            {"cc": ["c@x.test\rBcc: e@x.test"]},
            {"extra_headers": {"X-A\r\nBcc": "x\r\nBcc: e@x.test"}},
            {"attachments": [Attachment("a\r\nBcc: e@x.test", None, b"x")]},
        ],
    )
    def test_what_cannot_stand_in_a_header_is_dropped(self, fields):
        content = render(mail(**fields), now=0)
        assert not any(line.lower().startswith(b"bcc") for line in content.split(b"\r\n"))
        assert content.count(b"\r\n") == content.count(b"\n") == content.count(b"\r")

    def test_what_is_missing_is_left_out(self):
        content = render(Message(), now=0)
        assert b"\r\nFrom:" not in content
        assert b"\r\nTo:" not in content

    def test_an_address_that_is_none_is_shown(self):
        content = render(mail(recipients=["nobody", ("n", "ü"), 7]), now=0)
        assert b"To: nobody" in content

    def test_nothing_is_changed_on_the_message(self):
        message = mail(subject="a\r\nb")
        render(message, now=0)
        assert message.subject == "a\r\nb"


class TestFingerprint:
    def test_it_does_not_depend_on_what_sealing_adds(self):
        one, same = mail(), mail(date=7.0)
        one.msgId  # noqa: B018  made when read
        assert fingerprint(one) == fingerprint(same)

    @pytest.mark.parametrize(
        "fields",
        [
            {"subject": "t"},
            {"sender": "t@x.test"},
            {"recipients": ["b@x.test"]},
            {"recipients": ["a@x.test", "b@x.test"]},
            {"cc": ["c@x.test"]},
            {"bcc": ["c@x.test"]},
            {"reply_to": "r@x.test"},
            {"body": "c"},
            {"html": "<p>"},
            {"alts": {"x": "y"}},
            {"charset": "latin-1"},
            {"extra_headers": {"X-A": "1"}},
            {"mail_options": ["A"]},
            {"rcpt_options": ["A"]},
            {"attachments": [Attachment("a", None, b"1")]},
            {"attachments": [Attachment("a", None, b"2")]},
            {"attachments": [Attachment("b", None, b"2")]},
            {"attachments": [Attachment("b", None, b"2", "inline")]},
            {"attachments": [Attachment("b", None, b"2", cid="c")]},
            {"in_reply_to": "<a@b>"},
            {"references": ["<a@b>"]},
            {"auto_submitted": "auto-replied"},
            {"list_id": "l.x"},
            {"list_unsubscribe": "https://x.test"},
            {"list_unsubscribe_post": True},
            {"list_help": "https://x.test"},
            {"list_subscribe": "https://x.test"},
            {"list_post": "https://x.test"},
            {"list_owner": "https://x.test"},
            {"list_archive": "https://x.test"},
            {"invitation": Invitation("METHOD:REQUEST")},
            {"dsn": Dsn(ret="FULL")},
            {"tags": ["t"]},
            {"metadata": {"k": "v"}},
            {"sensitive": True},
            {"at_most_once": True},
        ],
        ids=" ".join,
    )
    def test_it_depends_on_everything_that_was_composed(self, fields):
        assert fingerprint(mail(**fields)) != fingerprint(mail())
        assert fingerprint(mail(**fields)) == fingerprint(mail(**fields))

    def test_lists_and_tuples_are_alike(self):
        assert fingerprint(mail(recipients=[("A", "a@x.test")])) == fingerprint(
            mail(recipients=[["A", "a@x.test"]])
        )

    def test_the_order_in_which_a_dict_was_filled_does_not_matter(self):
        assert fingerprint(mail(metadata={"a": "1", "b": "2"})) == fingerprint(
            mail(metadata={"b": "2", "a": "1"})
        )


class TestTextFromHtml:
    @pytest.mark.parametrize(
        ("html", "text"),
        [
            ("", ""),
            ("plain", "plain\n"),
            ("<p>a  \n b</p><p>c</p>", "a b\n\nc\n"),
            ("a<br>b<br/>c", "a\nb\nc\n"),
            ("<h1>Title</h1><p>x", "Title\n=====\n\nx\n"),
            ("<h2>Title</h2>x", "Title\n-----\n\nx\n"),
            ("<h3>Title</h3>x", "Title\n\nx\n"),
            ("<b>a</b>nd &amp; &#228; &nbsp;x", "and & ä \xa0x\n"),
            ("<a href='https://x.test/v?t=1'>go</a>.", "go <https://x.test/v?t=1>.\n"),
            ("<a href='https://x.test'>https://x.test</a>", "https://x.test\n"),
            ("<a href='mailto:a@x.test'>a@x.test</a>", "a@x.test\n"),
            ("<a href='mailto:a@x.test'>us</a>", "us <mailto:a@x.test>\n"),
            ("<a href='#top'>top</a> <a>none</a>", "top none\n"),
            ("<a href='javascript:x()'>js</a>", "js\n"),
            (
                "<a href='https://x.test'><img alt='Logo' src='l.png'></a>",
                "Logo <https://x.test>\n",
            ),
            ("<a href='https://x.test'><img src='l.png'></a>", "<https://x.test>\n"),
            ("<ul><li>a</li><li>b</li></ul>", "* a\n* b\n"),
            ("<ol><li>a<li>b</ol>", "1. a\n2. b\n"),
            ("<ol start=3><li>a</ol>", "3. a\n"),
            ("<ul><li>a<ul><li>b</ul><li>c</ul>", "* a\n  * b\n* c\n"),
            ("<ul><li><p>a</p></li></ul>", "* a\n"),
            ("<table><tr><th>k<th>v</tr><tr><td>1</td><td>2</td></tr></table>", "k | v\n1 | 2\n"),
            ("a<hr>b", f"a\n\n{'-' * 40}\n\nb\n"),
            ("<pre>a\n  b</pre>", "a\n  b\n"),
            ("<style>x{}</style><script>y()</script><title>t</title>a", "a\n"),
            ("<head><meta charset=utf-8></head><body>a</body>", "a\n"),
            ("<div style='display: none'>pre<p>header</p></div>a", "a\n"),
            ("<p hidden>x</p>a", "a\n"),
            ("<img src=x><img src=x alt=>a", "a\n"),
            ("</p></a></ul>a</table>", "a\n"),
            ("<script>never closed", ""),
        ],
    )
    def test_it_reads_as_a_person_would_write_it(self, html, text):
        assert text_of(html) == text

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize(
        "html",
        [
            "<a " * 50_000,
            "<!--" * 50_000,
            "<!--" * 50_000 + ">",
            "<!--" * 50_000 + ">" * 50_000,
            "<a href='x'>" * 30_000 + "</a>" * 30_000,
            "<ul><li>" * 5_000,
            "<" * 100_000,
            "</" * 50_000,
            "&" * 100_000,
            "<script>" * 20_000,
        ],
        ids=lambda html: html[:12],
    )
    def test_no_html_takes_long(self, html):
        assert isinstance(text_of(f"hello {html}"), str)

    def test_html_that_is_all_broken_tags_still_gives_its_words(self):
        assert text_of("one <b>two</b> &amp; " + "<a " * 200) == "one two &\n"

    @settings(max_examples=150)
    @given(
        st.lists(
            st.sampled_from(
                [
                    "<p>",
                    "</p>",
                    "<ul>",
                    "<li>",
                    "</ul>",
                    "<ol>",
                    "<a",
                    "href='x'>",
                    "</a>",
                    "<td>",
                    "<tr>",
                    "<pre>",
                    "</pre>",
                    "<h1>",
                    "</h1>",
                    "<script>",
                    "</script>",
                    "<br>",
                    "<hr>",
                    "a",
                    "&",
                    "&amp;",
                    "&#x;",
                    "<",
                    ">",
                    "<!",
                    "<!--",
                    "-->",
                    "\n",
                    "<svg>",
                    "</svg>",
                ]
            ),
            max_size=40,
        ).map(" ".join)
    )
    def test_no_html_is_so_broken_that_it_fails(self, html):
        assert isinstance(text_of(html), str)


def test_a_message_error_is_a_value_error():
    assert issubclass(MessageError, ValueError)
