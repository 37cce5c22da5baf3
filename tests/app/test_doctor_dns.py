"""flask outbox doctor on what domains publish, asked of a name server of the tests' own."""

import contextlib
import json

import pytest
from flask import Flask

from dkim_judges import RSA, pem_of
from flask_outbox import Mail
from flask_outbox.mail import dmarc
from flask_outbox.mail.lookup import Found, How
from flask_outbox.mail.spf import check
from name_server import serving

FINE = {
    "example.com": {"MX": ["10 mx.example.com."], "TXT": ['"v=spf1 include:relay.test -all"']},
    "relay.test": {"TXT": ['"v=spf1 ip4:192.0.2.1 a mx -all"'], "A": ["192.0.2.1"]}
    | {"MX": ["10 mx.relay.test."]},
    "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=reject"']},
    "1.2.0.192.in-addr.arpa": {"PTR": ["mx.relay.test."]},
    "mx.relay.test": {"A": ["192.0.2.1"]},
}
DKIM = {"MAIL_DKIM_DOMAIN": "example.com", "MAIL_DKIM_SELECTOR": "r", "MAIL_DKIM_KEY": pem_of(RSA)}


def txt(text):
    return {"TXT": [" ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))]}


def spf(record, **more):
    return {"example.com": {**FINE["example.com"], "TXT": [f'"{record}"']}, **more}


def look(check, zone=None, *options, **config):
    """What a check of that name finds, in one zone or another."""
    app = Flask("shop")
    app.config.update(
        MAIL_TRANSPORT="null:", MAIL_DEFAULT_SENDER="shop@example.com", SECRET_KEY="key"
    )
    app.config.update(config)
    Mail(app)
    with serving({**FINE, **(zone or {})}) as server:
        asked = ["--json", "--nameserver", "127.0.0.1", "--port", str(server.port)]
        result = app.test_cli_runner().invoke(args=["outbox", "doctor", *asked, *options])
    assert result.exit_code in {0, 1}, result.output
    found = [each for each in json.loads(result.stdout) if each["check"] == check]
    errors = any(each["severity"] == "error" for each in json.loads(result.stdout))
    assert result.exit_code == errors
    assert all(each["fix"] for each in found if each["severity"] in {"warning", "error"})
    return found


def one(check, zone=None, *options, **config):
    (finding,) = look(check, zone, *options, **config)
    return finding["severity"], finding["text"]


@pytest.mark.parametrize(
    ("zone", "severity", "words"),
    [
        ({}, "ok", "10 mx.example.com"),
        ({"example.com": {"MX": ["0 ."]}}, "error", "null MX"),
        ({"example.com": {"A": ["192.0.2.9"]}}, "warning", "no MX"),
        ({"example.com": {"AAAA": ["2001:db8::9"]}}, "warning", "no MX"),
        ({"example.com": {"TXT": ["x"]}}, "error", "the name has no such record"),
        ({"example.com": "SERVFAIL"}, "warning", "name servers fail"),
        ({"example.com": {"A": "SERVFAIL"}}, "warning", "of its own address: its name servers"),
        ({"example.com": {"AAAA": "SERVFAIL"}}, "warning", "of its own address: its name servers"),
        ({"example.com": {"A": "SERVFAIL", "AAAA": ["2001:db8::9"]}}, "warning", "go to its own"),
    ],
)
def test_mx(zone, severity, words):
    told, text = one("mx", zone)
    assert (told, words in text) == (severity, True), text


def test_a_domain_that_does_not_exist_is_an_error():
    found = look("mx", {}, "--domain", "none.invalid")
    assert [each["severity"] for each in found] == ["ok", "error"]
    assert "there is no such name" in found[1]["text"]


@pytest.mark.parametrize(
    ("record", "severity", "words"),
    [
        ("v=spf1 include:relay.test -all", "ok", "3 of 10 look-ups"),
        ("v=spf1 ip4:192.0.2.1 ip6:2001:db8::/32 ~all", "ok", "0 of 10 look-ups"),
        ("v=spf1 redirect=relay.test", "ok", "3 of 10 look-ups"),
        ("v=spf1 exists:%{i}.relay.test ptr -all", "ok", "2 of 10 look-ups"),
        ("v=spf1" + " a:relay.test" * 10 + " -all", "ok", "10 of 10 look-ups"),
        ("v=spf1" + " a:relay.test" * 11 + " -all", "error", "more than 10 look-ups"),
        ("v=spf1 -all" + " a:relay.test" * 11, "ok", "0 of 10 look-ups"),
        ("v=spf1 include:example.com -all", "error", "more than 10 look-ups"),
        ("v=spf1 a:x.invalid a:y.invalid -all", "ok", "2 of 10 look-ups"),
        ("v=spf1 a:x.invalid a:y.invalid a:z.invalid -all", "error", "find nothing"),
        ("v=spf1 include:mx.relay.test -all", "error", "has no SPF record"),
        ("v=spf1 include -all", "error", "a term that is none: 'include'"),
        ("v=spf1 ipv4:192.0.2.1 -all", "error", "a term that is none"),
        ("v=spf1 exists:%{i}.a exists:%{i}.b exists:%{i}.c -all", "ok", "3 of 10 look-ups"),
        ("v=spf1 a:six.test a:six.test a:six.test -all", "ok", "3 of 10 look-ups"),
        ("v=spf1 mx:many.test -all", "error", "more than 10 names in MX"),
        ("v=spf1 include:all.test", "warning", "by include:all.test; 1 of 10 look-ups"),
        ("v=spf1 include:above.test -all", "warning", "everybody send, by include:above"),
        ("v=spf1 -include:all.test -all", "ok", "1 of 10 look-ups"),
        ("v=spf1 include:mid.test -all", "ok", "1 of 10 look-ups"),
        ("v=spf1 ip4:0.0.0.0/0 -all", "warning", "everybody send, by ip4:0.0.0.0/0"),
        ("v=spf1 a:relay.test/24//0 -all", "warning", "everybody send, by a:relay.test/24"),
        ("v=spf1 mx/0//64 -all", "warning", "everybody send, by mx/0//64"),
        ("v=spf1 ~ip4:0.0.0.0/0 ip4:192.0.2.0/30 -all", "ok", "0 of 10 look-ups"),
        ("v=spf1 a:x/0.relay.test -all", "ok", "1 of 10 look-ups"),
        ("v=spf1 redirect=wide.test", "warning", "everybody send, by ip6:::/0; 1 of 10"),
        ("v=spf1 ?include:all.test include:wide.test -all", "warning", "by include:wide.test"),
        ("v=spf1 redirect=all.test", "error", "+all"),
        ("v=spf1 redirect=%{d}.relay.test", "skipped", "macro, which is not followed; 1 of 10"),
        ("v=spf1 +all", "error", "everybody"),
        ("v=spf1 a:relay.test", "warning", "1 of 10"),
        ("v=spf10 -all", "error", "no SPF record"),
        ("v=spf1 include:sick.test -all", "warning", "sick.test: its name servers fail"),
    ],
)
def test_spf(record, severity, words):
    others = {
        "sick.test": "SERVFAIL",
        "six.test": {"AAAA": ["2001:db8::6"]},
        "many.test": {"MX": [f"{number} mx{number}.test." for number in range(11)]},
        "all.test": {"TXT": ['"v=spf1 +all"']},
        "above.test": {"TXT": ['"v=spf1 redirect=all.test"']},
        "wide.test": {"TXT": ['"v=spf1 ip6:::/0 -all"']},
        "mid.test": {"TXT": ['"v=spf1 -all ip4:0.0.0.0/0"']},
    }
    told, text = one("spf", spf(record, **others))
    assert (told, words in text) == (severity, True), text


@pytest.mark.parametrize(
    "term",
    [
        *("ip4", "ip4:", "ip4:999.1.2.3", "ip4:192.0.2", "ip4:192.0.2.1/33", "ip4:192.0.2.1/08"),
        *("ip4:192.0.2.1//64", "ip4:192.0.2.1:25", "ip6", "ip6:zz", "ip6:2001:db8::/129"),
        *("ip6:192.0.2.1", "a:", "a:/24", "a/33", "a/abc", "a/024", "a//129", "a:relay.test/"),
        *("a:relay.test:25", "a:host", "a:x.123", "mx:relay.test/24/64", "ptr/24", "include"),
        *("include:", "include:relay.test/24", "exists", "exists:relay.test/24", "all:foo"),
        *("-all/8", "redirect=", "redirect=host", "exp=", "=relay.test", "?", "\u2013all"),
        *("exists:%{e}.relay.test", "exists:%{i", "exists:%{d0}.relay.test", "a:50%.test", "x=%"),
        *("redirect=relay.test redirect=relay.test", "exp=relay.test exp=relay.test"),
    ],
)
def test_a_term_that_is_wrong_voids_the_whole_record_wherever_it_stands(term):
    for record in (f"v=spf1 {term} -all", f"v=spf1 -all {term}"):
        problem = judged(record)
        assert "is none" in problem or "twice" in problem, record


@pytest.mark.parametrize(
    "term",
    [
        *("ip4:192.0.2.1", "ip4:192.0.2.0/24", "ip4:0.0.0.0/0", "IP4:192.0.2.1/32", "ip6:::1"),
        *("ip6:2001:db8::/128", "ip6:::ffff:192.0.2.1/96", "a", "A/24", "a//64", "a/24//64"),
        *(
            "a:relay.test",
            "a:relay.test.",
            "a:relay.test/24",
            "a:relay.test//64",
            "mx:relay.test/0",
        ),
        *("a:_x.relay.test", "a:x.1-2", "a:x.xn--p1ai", "?ptr", "ptr:relay.test", "~all", "+a"),
        *("exists:%{ir}.%{v}._spf.%{d2}", "exists:%{L1r+-}.x.test", "exists:x.%{d}", "a:%%x.test"),
        *("exp=explain.%{d}", "unknown=%{i}/x:y", "default=pass", "redirect=%{d}"),
    ],
)
def test_a_term_that_is_right_is_taken(term):
    assert judged(f"v=spf1 {term} -all") == ""


def judged(record):
    """What is wrong with a record, where every other name has a record of each kind."""
    walk = check("example.com")
    ask = next(walk)
    while True:
        own = (ask.name, ask.kind) == ("example.com", "TXT")
        try:
            ask = walk.send(Found(How.FOUND, (record if own else "v=spf1 -all",)))
        except StopIteration as end:
            return end.value.problem


def test_of_two_spf_records_none_holds():
    two = {"example.com": {"MX": ["1 a.test."], "TXT": ['"v=spf1 -all"', '"v=spf1 ~all"']}}
    assert "2 SPF records" in one("spf", two)[1]


def test_spf_is_asked_of_the_domain_that_bounces_go_to():
    assert "relay.test" in one("spf", MAIL_RETURN_PATH="bounces@relay.test")[1]


@pytest.mark.parametrize(
    ("record", "severity", "words"),
    [
        (None, "error", "there is no such name"),
        ("ours", "ok", "our key"),
        ("v=DKIM1; k=rsa; p=", "error", "revoked"),
        ("v=DKIM1; k=rsa; p=AAAA", "error", "another key"),
        ("v=DKIM1; k=ed25519; p=AAAA", "error", "of the kind ed25519"),
        ("ours; t=y", "error", "as a test"),
        ("v=DKIM1", "error", "0 records"),
        ("short", "ok", "our key"),
        ("ours; h=sha1:sha256; s=email; t=s", "ok", "our key"),
        ("ours; s=tlsrpt:*", "ok", "our key"),
        ("ours; h=sha1", "error", "h= leaves out sha256"),
        ("ours; s=tlsrpt", "error", "s= leaves out email"),
        ("n=x; ours", "error", "does not stand first"),
        ("v=DKIM2; short", "error", "v= is not DKIM1"),
        ("v=DKIM1; k=\\027[31mrsa; p=AAAA", "error", "of the kind  [31mrsa"),
    ],
)
def test_dkim(record, severity, words):
    zone = {} if record is None else {"r._domainkey.example.com": txt(_written(record))}
    told, text = one("dkim", zone, **DKIM)
    assert (told, words in text) == (severity, True), text
    assert "PRIVATE" not in text


def _written(record):
    short = RSA.record.replace("v=DKIM1; ", "")
    return record.replace("ours", RSA.record).replace("short", short)


@pytest.mark.parametrize(
    ("record", "severity", "words"),
    [
        ('"v=DMARC1; p=none"', "ok", "none"),
        ('"v = DMARC1 ; p = NONE"', "ok", "policy none"),
        ('"V=DMARC1;P=Reject"', "ok", "policy reject"),
        ('"p=none; v=DMARC1"', "error", "does not begin with v=DMARC1"),
        ('"v=DMARC1 p=none"', "error", "does not begin with v=DMARC1;"),
        ('"v=dmarc1; p=none"', "warning", "no DMARC record"),
        ('"v=DMARC1; rua=mailto:a@example.com"', "error", "no policy"),
        ('"v=DMARC1; p=none" "v=DMARC1; p=none"', "ok", "none"),
        ('"v=spf1"', "warning", "no DMARC record"),
    ],
)
def test_dmarc(record, severity, words):
    told, text = one("dmarc", {"_dmarc.example.com": {"TXT": [record]}})
    assert (told, words in text) == (severity, True), text


def test_of_two_dmarc_records_none_holds():
    zone = {"_dmarc.example.com": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']}}
    told, text = one("dmarc", zone)
    assert (told, "has 2 records" in text) == ("error", True)


def test_what_is_above_a_domain_with_a_record_of_its_own_does_not_void_it():
    zone = {
        "_dmarc.news.example.com": txt("v=DMARC1; p=reject"),
        "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=quarantine"']},
    }
    sender = {"MAIL_DEFAULT_SENDER": "a@news.example.com"}
    for above in ({}, {"_dmarc.example.com": "SERVFAIL"}):
        told, text = one("dmarc", zone | above, **sender)
        assert (told, "policy reject" in text) == ("ok", True)
        assert one("alignment", zone | above, **sender)[0] == "ok"


def test_of_several_records_above_a_domain_the_walk_takes_none():
    zone = {
        "_dmarc.news.example.com": txt("v=DMARC1; p=quarantine"),
        "_dmarc.example.com": {"TXT": ['"v=DMARC1; p=none"', '"v=DMARC1; p=reject"']},
    }
    told, text = one("dmarc", zone, MAIL_DEFAULT_SENDER="a@x.news.example.com")
    assert (told, "policy quarantine" in text) == ("ok", True)


def test_a_policy_is_not_known_where_a_domain_has_none_and_nobody_can_say_what_is_above():
    zone = {"_dmarc.news.example.com": txt("v=DMARC1; p=reject"), "_dmarc.example.com": "SERVFAIL"}
    told, text = one("dmarc", zone, MAIL_DEFAULT_SENDER="a@x.news.example.com")
    assert (told, "_dmarc.example.com: its name servers fail" in text) == ("warning", True)


@pytest.mark.parametrize(
    ("bounces", "policy", "severity"),
    [
        ("x.example.com", "p=reject", "ok"),
        ("other.com", "p=reject", "warning"),
        ("own.com", "p=reject", "warning"),
        ("other.com", "p=reject; aspf=s", "error"),
    ],
)
def test_of_an_organisation_whose_end_nobody_can_tell_only_what_is_below_is_known(
    bounces, policy, severity
):
    zone = {
        "_dmarc.example.com": txt(f"v=DMARC1; {policy}"),
        "_dmarc.own.com": txt("v=DMARC1; p=none; psd=n"),
        "_dmarc.com": "SERVFAIL",
    }
    told, _ = one("alignment", zone, MAIL_RETURN_PATH=f"b@{bounces}")
    assert told == severity


def test_no_walk_asks_for_more_than_eight_names():
    walk, asked = dmarc.check("a.b.c.d.e.f.g.h.example.com"), []
    with contextlib.suppress(StopIteration):
        ask = next(walk)
        while True:
            asked.append(ask.name)
            ask = walk.send(Found(How.NO_NAME))
    assert asked[:2] == ["_dmarc.a.b.c.d.e.f.g.h.example.com", "_dmarc.d.e.f.g.h.example.com"]
    assert (len(asked), asked[-1]) == (8, "_dmarc.com")


def test_a_dmarc_record_that_nobody_can_look_up_is_not_missing():
    told, text = one("dmarc", {"_dmarc.example.com": "SERVFAIL"})
    assert (told, "name servers fail" in text) == ("warning", True)


@pytest.mark.parametrize(
    ("above", "severity"),
    [
        ({}, "error"),
        ({"_dmarc.com": txt("v=DMARC1; p=none")}, "ok"),
        ({"_dmarc.com": txt("v=DMARC1; p=none; psd=y")}, "error"),
    ],
)
def test_two_domains_below_a_registry_are_no_organisation(above, severity):
    told, _ = one("alignment", above, MAIL_RETURN_PATH="bounces@other.com")
    assert told == severity


@pytest.mark.parametrize("own", [{}, {"_dmarc.a.shop.bank": txt("v=DMARC1; p=reject")}])
def test_an_organisation_is_one_label_below_a_registry_whether_it_has_a_record_or_not(own):
    zone = {**own, "_dmarc.bank": txt("v=DMARC1; p=reject; psd=y"), "_dmarc.bounces.bank": {}}
    config = {"MAIL_DEFAULT_SENDER": "shop@a.shop.bank"}
    assert one("alignment", zone, MAIL_RETURN_PATH="b@b.shop.bank", **config)[0] == "ok"
    assert one("alignment", zone, MAIL_RETURN_PATH="b@bounces.bank", **config)[0] == "error"


@pytest.mark.parametrize(
    ("records", "policy"),
    [
        ({"bank": "p=none; sp=reject; psd=y"}, "reject"),
        ({"bank": "p=quarantine; psd=y"}, "quarantine"),
        ({"shop.bank": "p=quarantine", "bank": "p=reject; psd=y"}, "quarantine"),
        ({"b.shop.bank": "p=none", "shop.bank": "p=quarantine"}, "quarantine"),
        ({"b.shop.bank": "p=none", "bank": "p=reject; psd=y"}, "reject"),
        ({"a.b.shop.bank": "p=none", "shop.bank": "p=reject"}, "none"),
    ],
)
def test_a_policy_is_of_the_domain_or_its_organisation_or_its_registry(records, policy):
    zone = {f"_dmarc.{name}": txt(f"v=DMARC1; {record}") for name, record in records.items()}
    told, text = one("dmarc", zone, MAIL_DEFAULT_SENDER="shop@a.b.shop.bank")
    assert (told, text.rpartition(" ")[2]) == ("ok", f"{policy}.")


def test_of_two_registries_the_lower_one_bounds_an_organisation():
    zone = {f"_dmarc.{name}": txt("v=DMARC1; p=reject; psd=y") for name in ("co.bank", "bank")}
    config = {"MAIL_DEFAULT_SENDER": "a@shop.co.bank", "MAIL_RETURN_PATH": "b@other.co.bank"}
    assert one("alignment", zone, **config)[0] == "error"


def test_a_registry_that_sends_itself_is_of_the_organisation_above_it():
    zone = {
        "_dmarc.example.com": txt("v=DMARC1; p=reject; psd=y"),
        "_dmarc.com": txt("v=DMARC1; p=none"),
    }
    assert one("alignment", zone, MAIL_RETURN_PATH="bounces@other.com")[0] == "ok"


def test_an_organisation_may_end_below_another():
    zone = {
        "_dmarc.example.com": txt("v=DMARC1; p=reject; psd=n"),
        "_dmarc.com": txt("v=DMARC1; p=none"),
    }
    assert one("alignment", zone, MAIL_RETURN_PATH="bounces@other.com")[0] == "error"


def test_a_strict_domain_needs_no_word_of_the_organisation_of_another():
    zone = {
        "_dmarc.example.com": txt("v=DMARC1; p=reject; aspf=s"),
        "_dmarc.x.example.com": "SERVFAIL",
    }
    assert one("alignment", zone, MAIL_RETURN_PATH="b@x.example.com")[0] == "error"


def test_a_strict_domain_is_not_aligned_with_the_key_of_the_one_above_it():
    config = {**DKIM, "MAIL_RETURN_PATH": "b@relay.test"}
    for policy, severity in (("p=reject", "ok"), ("p=reject; adkim=s", "error")):
        zone = {"_dmarc.example.com": txt(f"v=DMARC1; {policy}")}
        sender = {"MAIL_DEFAULT_SENDER": "a@news.example.com"}
        assert one("alignment", zone, **config, **sender)[0] == severity


def test_a_subdomain_has_the_policy_of_the_one_above_it():
    zone = {"_dmarc.example.com": {"TXT": ['"v=DMARC1; p=none; sp=quarantine"']}}
    found = look("dmarc", zone, "--domain", "news.example.com")
    assert [each["text"].rpartition(" ")[2] for each in found] == ["none.", "quarantine."]


@pytest.mark.parametrize(
    ("policy", "config", "severity", "words"),
    [
        ("p=reject", {}, "ok", "by SPF."),
        ("p=reject", {"MAIL_RETURN_PATH": "b@x.example.com"}, "ok", "by SPF."),
        ("p=reject; aspf=s", {"MAIL_RETURN_PATH": "b@x.example.com"}, "error", "Neither"),
        ("p=reject", {"MAIL_RETURN_PATH": "b@relay.test"}, "error", "Neither"),
        ("p=none", {"MAIL_RETURN_PATH": "b@relay.test"}, "warning", "Neither"),
        ("p=reject", {"MAIL_RETURN_PATH": "b@relay.test", **DKIM}, "ok", "by DKIM."),
        ("p=reject", DKIM, "ok", "by SPF and DKIM."),
    ],
)
def test_alignment(policy, config, severity, words):
    zone = {"_dmarc.example.com": {"TXT": [f'"v=DMARC1; {policy}"']}}
    told, text = one("alignment", zone, **config)
    assert (told, words in text) == (severity, True), text


HOME = "home=http://127.0.0.1:1"
SES = f"ses://AKIA:secret@?region=eu-west-1&{HOME}"
MAILGUN = f"mailgun://key@example.com?{HOME}"
POSTMARK = f"postmark://token@?{HOME}"


@pytest.mark.parametrize(
    ("way", "config", "severity", "words"),
    [
        (SES, DKIM, "skipped", "signing is the provider's"),
        (SES, {**DKIM, "MAIL_RETURN_PATH": "b@relay.test"}, "skipped", "example.com is verified"),
        (POSTMARK, {}, "skipped", "signing is the provider's"),
        (MAILGUN, {}, "skipped", "the envelope is the provider's"),
        (MAILGUN, DKIM, "ok", "by DKIM."),
    ],
)
def test_what_is_a_providers_is_not_taken_for_ours(way, config, severity, words):
    told, text = one("alignment", MAIL_TRANSPORT=way, **config)
    assert (told, words in text) == (severity, True), text


@pytest.mark.parametrize(
    ("config", "severity", "words"),
    [
        ({}, "warning", "_dmarc.x.example.com: its name servers fail"),
        (DKIM, "ok", "by DKIM."),
        ({"MAIL_RETURN_PATH": "b@relay.test"}, "error", "Neither"),
        ({"MAIL_TRANSPORT": SES}, "skipped", "is the provider's"),
    ],
)
def test_alignment_with_a_domain_that_nobody_can_look_up_is_not_denied(config, severity, words):
    zone = {"_dmarc.x.example.com": "SERVFAIL", "x.example.com": FINE["example.com"]}
    bounces = {"MAIL_RETURN_PATH": "b@x.example.com"}
    told, text = one("alignment", zone, **{**bounces, **config})
    assert (told, words in text) == (severity, True), text


def test_each_kind_of_way_is_judged_by_itself():
    found = look("alignment", MAIL_TRANSPORTS={"bulk": SES}, **DKIM)
    assert [each["severity"] for each in found] == ["ok", "skipped"]
    assert found[0]["text"] == (
        "example.com is aligned by SPF and DKIM, for what leaves by default."
    )
    assert found[1]["text"].startswith("For what leaves by bulk, signing is the provider's")


@pytest.mark.parametrize("way", [SES, MAILGUN, POSTMARK])
def test_spf_is_not_missed_where_the_envelope_is_a_providers(way):
    told, text = one("spf", {"example.com": {"MX": ["1 a.test."]}}, MAIL_TRANSPORT=way)
    assert (told, "is the provider's" in text) == ("skipped", True)


@pytest.mark.parametrize(
    ("ways", "severity", "words"),
    [
        ({"default": "null:"}, "ok", "Mail is signed by r._domainkey.example.com."),
        ({"default": MAILGUN}, "ok", "Mail is signed by r._domainkey.example.com."),
        ({"default": "null:", "bulk": SES}, "ok", "; what leaves by bulk is the provider's"),
        ({"default": SES, "bulk": POSTMARK}, "warning", "MAIL_DKIM_* sign nothing"),
    ],
)
def test_keys_that_sign_nothing_are_told(ways, severity, words):
    found = look("keys", None, "--no-dns", MAIL_TRANSPORT=None, MAIL_TRANSPORTS=ways, **DKIM)
    assert (found[-1]["severity"], words in found[-1]["text"]) == (severity, True), found


@pytest.mark.parametrize(
    ("address", "severity", "words"),
    [
        ("192.0.2.1", "ok", "mx.relay.test"),
        ("192.0.2.2", "error", "no name that leads back"),
        ("192.0.2.3", "error", "no name that leads back"),
        ("192.0.2.4", "warning", "name servers fail"),
    ],
)
def test_ptr(address, severity, words):
    zone = {
        "3.2.0.192.in-addr.arpa": {"PTR": ["mx.relay.test."]},
        "4.2.0.192.in-addr.arpa": "SERVFAIL",
    }
    told, text = one("ptr", zone, "--address", address)
    assert (told, words in text) == (severity, True), text


@pytest.mark.parametrize("domain", ["bad domain", "", "a@example.com", "x\ny"])
def test_what_is_no_domain_is_not_taken_for_one(domain):
    app = Flask("shop")
    app.config.update(MAIL_TRANSPORT="null:")
    Mail(app)
    wrong = app.test_cli_runner().invoke(args=["outbox", "doctor", "--domain", domain])
    assert wrong.exit_code == 2
    assert "'--domain': this is no domain, such as example.com" in wrong.output


def test_what_is_not_named_is_not_looked_up():
    assert one("ptr")[0] == "skipped"
    app = Flask("shop")
    app.config.update(MAIL_TRANSPORT="null:")
    Mail(app)
    wrong = app.test_cli_runner().invoke(args=["outbox", "doctor", "--address", "nowhere"])
    assert wrong.exit_code == 2
