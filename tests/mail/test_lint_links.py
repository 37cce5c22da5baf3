"""lint(): the rules on links: https, hosts that are shown, hosts that look alike, dead ends."""

import pytest

from flask_outbox.mail.lint import lint
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal

WORDS = "Your order of two books is on its way to you. " * 3


def link(target, text="Your order"):
    html = f'<p>{WORDS}</p>\n<p><a href="{target}">{text}</a></p>'
    message = Message("s", ["a@x.test"], WORDS, html, sender="s@x.test")
    return lint(seal(message, now=0).content)


def found(target, text="Your order"):
    return [finding.rule for finding in link(target, text)]


def told(target, text="Your order"):
    (finding,) = link(target, text)
    return finding.text


@pytest.mark.parametrize(
    "target",
    [
        *("https://x.test/", "HTTPS://X.test", "mailto:a@x.test", "tel:+491234", "sms:1", "#top"),
        *("myapp://open", "webcal://x.test/a.ics", "https://[::1]/", "https://x.test:8443/a?b#c"),
        *("https://bücher.example/", "https://xn--bcher-kva.example/", "https://%65x.test/"),
    ],
)
def test_whole_addresses_are_fine(target):
    assert found(target) == []


def test_links_without_https_are_counted_and_placed():
    assert "A link begins with http:" in told("http://x.test/secret-path")
    assert "line 2 of the HTML, to x.test;" in told("http://x.test/secret-path")
    assert "2 links begin with http:" in told('http://x.test/a">a</a><a href="hTTp://y.test')


def test_a_link_of_the_text_is_looked_at_too():
    message = Message("s", ["a@x.test"], f"{WORDS}\nhttp://x.test/o\n", sender="s@x.test")
    (finding,) = lint(seal(message, now=0).content)
    assert finding.rule == "link-https"
    assert "line 2" in finding.text


@pytest.mark.parametrize(
    "scheme", ["javascript", "data", "vbscript", "file", "JavaScript", "java\nscript"]
)
def test_links_that_mail_programs_take_out_are_told(scheme):
    assert found(f"{scheme}:alert(1)") == ["link-dead"]
    assert f"with {scheme.lower().replace(chr(10), '')}:" in told(f"{scheme}:alert(1)")


@pytest.mark.parametrize(
    "target", ["/reset", "reset.html", "", "//x.test/a", "{{ url }}", "https:///a", "HTTPS:x"]
)
def test_links_that_lead_nowhere_from_a_mailbox_are_told(target):
    assert found(target) == ["link-dead"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("https://x.example/", "https://x.example"),
        ("https://www.x.example/a", "x.example"),
        ("https://x.example/a", "www.x.example/b"),
        ("https://shop.x.example/", "https://x.example/"),
        ("https://x.example/", "https://shop.x.example/"),
        ("https://a.x.co.uk/", "b.x.co.uk"),
        ("https://xn--bcher-kva.example/", "https://bücher.example/"),
        ("https://bücher.example/", "BÜCHER.example"),
        ("https://x.example:8443/", "https://x.example"),
        ("https://x.example/", "Look at our books. They are cheap."),
        ("https://nodejs.org/", "Node.js"),
        ("https://x.example/a", "invoice.pdf"),
        ("https://x.example/a", "README.md"),
        ("https://x.example/a", "ada@other.example"),
        ("mailto:ada@x.example", "https://other.example"),
        ("https://192.0.2.1/", "https://192.0.2.1/"),
        ("https://click.example/t/123", "Your order"),
        ("https://www.x.example/", "Visit x.example today"),
        ("https://x.example/", "\u2192 www.x.example."),
        ("https://learn.example/", "Learn ASP.NET today"),
        ("https://learn.example/", "Learn Node.js today"),
        ("https://x.example/", "Look at our books.It is cheap."),
        ("https://x.example/", "Write to ada@other.example today"),
        ("https://x.example/", "Write to ada.example@other.example today"),
        ("https://x.example/", "See src/other.example today"),
        ("https://x.example/", "See other.example-of-that today"),
        ("https://x.example/", "See other.com.PDF today"),
        ("https://x.example/", "Read readme.md first, e.g. today"),
        ("https://x.example/", "Schauen Sie z.b. hier"),
        ("https://x.example/", "@other.example"),
        ("https://x.example/", "Version 2.0"),
    ],
)
def test_a_link_that_shows_where_it_leads_or_words_is_fine(target, text):
    assert found(target, text) == []


@pytest.mark.parametrize(
    ("target", "text", "shown", "actual"),
    [
        ("https://evil.test/", "https://bank.example/login", "bank.example", "evil.test"),
        ("https://evil.test/", "bank.com", "bank.com", "evil.test"),
        ("https://evil.test/", "bank.com/login", "bank.com", "evil.test"),
        ("https://evil.test/", "Go to www.bank.example now", "www.bank.example", "evil.test"),
        ("https://evil.test/", "Visit bank.example today", "bank.example", "evil.test"),
        ("https://evil.test/", "Go to bank.co.uk, please", "bank.co.uk", "evil.test"),
        ("https://evil.test/", "Go to (bank.de)", "bank.de", "evil.test"),
        ("https://evil.test/", "Go to bank.com/login", "bank.com", "evil.test"),
        ("https://evil.test/", "\u2192 bank.com", "bank.com", "evil.test"),
        ("https://evil.test/", "-> Bank.com", "bank.com", "evil.test"),
        ("https://evil.test/", "bank.com.", "bank.com", "evil.test"),
        ("https://evil.test/", "BANK.COM \u00bb", "bank.com", "evil.test"),
        ("https://evil.test/", "<b>https://</b>bank.example", "bank.example", "evil.test"),
        (
            "https://bank.example.evil.test/",
            "bank.example",
            "bank.example",
            "bank.example.evil.test",
        ),
        ("https://evilbank.example/", "https://bank.example", "bank.example", "evilbank.example"),
        ("https://evil.co.uk/", "https://bank.co.uk", "bank.co.uk", "evil.co.uk"),
        ("https://192.0.2.1/", "https://bank.example", "bank.example", "192.0.2.1"),
        ("https://192.0.2.1/", "https://198.51.2.1", "198.51.2.1", "192.0.2.1"),
        ("https://evil.test/", "bank.ch", "bank.ch", "evil.test"),
        ("https://[2001:db8::1]/", "https://bank.example", "bank.example", "[2001:db8::1]"),
        ("https://evil.test\\@bank.example/", "https://bank.example", "bank.example", "evil.test"),
        # é in one letter, and in another that only looks like it
        ("https://café.example/", "https://cafe.example", "cafe.example", "xn--caf-dma.example"),
    ],
)
def test_a_link_that_shows_another_host_is_told(target, text, shown, actual):
    assert found(target, text) == ["link-host"]
    assert f"shows {shown} and leads to {actual}," in told(target, text)


def test_a_host_in_letters_that_look_alike_is_another_and_is_told():
    cyrillic = "p\N{CYRILLIC SMALL LETTER A}ypal.com"
    assert found(f"https://{cyrillic}/", "paypal.com") == ["link-host", "link-look-alike"]
    assert found("https://paypal.com/", cyrillic) == ["link-host", "link-look-alike"]
    assert "xn--" in told(f"https://{cyrillic}/")
    assert found("https://xn--/", "Go") == []
    assert found("https://пример.example/", "Go") == []


def test_a_host_in_such_letters_is_told_once():
    host = "https://p\N{CYRILLIC SMALL LETTER A}y.example"
    assert found(f'{host}/">one</a><a href="{host}/two', "two") == ["link-look-alike"]


def test_a_link_without_https_to_nowhere_has_both_faults():
    assert found("http:///a") == ["link-https", "link-dead"]
    assert "to no host;" in link("http:///a")[0].text


def test_what_stands_before_an_at_sign_is_no_host():
    assert "before its host, evil.test," in told("https://bank.example@evil.test/")
    assert len(link("https://bank.example@evil.test/", "https://bank.example")) == 2


def test_neither_path_nor_query_of_a_link_is_told():
    for target in ("http://x.test/canary?canary", "https://x.test/canary", "/canary?canary"):
        for text in ("https://bank.example/canary", "Go"):
            assert "canary" not in str(link(target, text))


def test_what_is_told_of_a_host_cannot_command_a_terminal():
    for target in ("http://x.test\x1b[31m/", "https://\x1b]0;x\x07/", "\x1b[31m:x"):
        assert all(each.text.isprintable() for each in link(target, "https://\x1b[1m.x.test/"))
