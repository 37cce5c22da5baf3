"""Greeting, EHLO, STARTTLS, AUTH: what is required is had before MAIL, or nothing is sent."""

import hmac
import traceback
from base64 import b64encode

import pytest

from dialogue import GONE, HOST, ME, Fresh, Unreachable, dialogue, mail, relay
from flask_outbox.mail.errors import ConfigurationError, TlsError, WireError
from flask_outbox.mail.exchange import Tls
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.transports.smtp_login import Security, address_literal

EHLO = f"EHLO {ME}".encode()
HELO = f"HELO {ME}".encode()
SENT = [
    (b"MAIL FROM:<shop@example.com>", "250 ok"),
    (b"RCPT TO:<ada@example.org>", "250 ok"),
    (b"DATA", "354 go on"),
    (b"Subject: hi\r\n\r\nhello\r\n.", "250 ok"),
]
STARTTLS = (b"STARTTLS", "220 go")
QUIT = (b"QUIT", "221 bye")
USER, PASSWORD = "shop", "correct horse"


def b64(text):
    return b64encode(text.encode())


def offering(*words):
    lines = [f"250-{word}" for word in (HOST, *words)]
    lines[-1] = lines[-1].replace("-", " ", 1)
    return (EHLO, "\r\n".join(lines))


def entering(script, **settings):
    return dialogue([Fresh(None), *script], mail(), mail(number=2), transport=relay(**settings))


def refused(told):
    """Every message is deferred by our fault, and none was begun; give the text."""
    first, second = told.outcomes
    assert first == second
    assert isinstance(first, Deferred)
    assert first.fault is Fault.OURS
    assert told.ends == ["closed"]
    assert not any(b"MAIL" in b"".join(write.blocks) for write in told.wrote)
    return first.text


def private(**settings):
    return {"username": USER, "password": PASSWORD, **settings}


def test_credentials_go_over_starttls_and_only_what_is_offered_inside_counts():
    told = dialogue(
        [
            Fresh(None),
            offering("STARTTLS", "AUTH CRAM-MD5", "PIPELINING", "SIZE 1"),
            STARTTLS,
            "TLS",
            offering("AUTH PLAIN"),
            (b"AUTH PLAIN " + b64(f"\0{USER}\0{PASSWORD}"), "235 ok"),
            *SENT,
        ],
        transport=relay(**private()),
    )
    assert told.outcomes == [Accepted("250 ok")]
    assert told.opened[0].port == 587
    assert told.opened[0].tls is None
    assert told.tls == [Tls()]


def test_implicit_tls_needs_no_starttls():
    tls = Tls(fingerprint="ab" * 32)
    told = dialogue(
        [
            Fresh(None),
            offering("STARTTLS", "AUTH LOGIN"),
            (b"AUTH LOGIN", "334 VXNlcm5hbWU6"),
            (b64(USER), "334 UGFzc3dvcmQ6"),
            (b64(PASSWORD), "235 ok"),
            *SENT,
        ],
        transport=relay(**private(security=Security.IMPLICIT, tls=tls)),
    )
    assert told.outcomes == [Accepted("250 ok")]
    assert (told.opened[0].port, told.opened[0].tls) == (465, tls)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([offering("AUTH PLAIN"), QUIT], "no STARTTLS"),
        ([offering("STARTTLS", "AUTH PLAIN"), (b"STARTTLS", "454 not now"), QUIT], "454 not now"),
        ([offering("STARTTLS"), (b"STARTTLS", "501 no"), QUIT], "501 no"),
        ([(EHLO, "502 what?"), QUIT], "502 what?"),
        ([offering("STARTTLS"), (b"STARTTLS", GONE)], "the line is gone"),
        ([offering("STARTTLS"), STARTTLS, TlsError("certificate expired")], "certificate expired"),
        ([offering("STARTTLS"), STARTTLS, TlsError("talked on")], "talked on"),
        ([offering("STARTTLS"), STARTTLS, "TLS", (EHLO, "421 bye"), QUIT], "421 bye"),
        ([offering("STARTTLS"), STARTTLS, "TLS", offering("PIPELINING"), QUIT], "AUTH refused"),
    ],
)
def test_where_tls_is_required_nothing_is_said_without_it(script, says):
    script = [Fresh(None), *script]
    told = dialogue(script, mail(), mail(number=2), transport=relay(**private()))
    assert says in refused(told)
    assert not any(b"AUTH" in b"".join(write.blocks) for write in told.wrote)


def test_tls_can_be_required_without_credentials():
    assert "no STARTTLS" in refused(entering([offering(), QUIT], security=Security.REQUIRED))
    script = [(EHLO, "502 what?"), QUIT]
    assert "502 what?" in refused(entering(script, security=Security.REQUIRED))


def test_helo_is_tried_where_ehlo_is_unknown_and_nothing_else_is_at_stake():
    for reply in ("500 what?", "502 not here", "550 no"):
        told = dialogue([Fresh(None), (EHLO, reply), (HELO, "250 hi"), *SENT])
        assert told.outcomes == [Accepted("250 ok")]
    assert "501 no" in refused(entering([(EHLO, "502 what?"), (HELO, "501 no"), QUIT]))
    assert "421 bye" in refused(entering([(EHLO, "421 bye"), QUIT]))


@pytest.mark.parametrize("reply", ["554 go away", "421 full", "250 hi"])
def test_a_greeting_that_is_none_defers_all_by_our_fault(reply):
    told = dialogue([Fresh(None, greeting=reply), QUIT], mail(), mail(number=2))
    assert reply in refused(told)


@pytest.mark.parametrize(
    "script",
    [
        [(EHLO, GONE)],
        [offering("AUTH PLAIN"), (b"AUTH PLAIN " + b64(f"\0{USER}\0{PASSWORD}"), GONE)],
    ],
)
def test_a_break_on_the_way_in_is_our_fault_and_no_message_s(script):
    told = entering(script, **private(security=Security.INSECURE))
    assert "the line is gone" in refused(told)


def test_no_greeting_names_the_switch_for_implicit_tls():
    told = dialogue([Fresh(None, greeting=GONE)], mail(), mail(number=2))
    assert "MAIL_USE_SSL" in refused(told)


def test_a_failed_handshake_from_the_first_byte_names_the_switch_for_starttls():
    told = dialogue(
        [Unreachable(TlsError("wrong version number"))],
        transport=relay(security=Security.IMPLICIT),
    )
    assert "MAIL_USE_TLS" in told.outcomes[0].text


def test_an_untrusted_certificate_names_the_setting_for_an_own_authority():
    for security in (Security.IMPLICIT, Security.REQUIRED):
        told = dialogue(
            [Unreachable(TlsError("the certificate is self-signed"))],
            transport=relay(security=security),
        )
        assert "MAIL_TLS_CA_FILE" in told.outcomes[0].text
        assert "fingerprint" in told.outcomes[0].text


def test_a_text_says_which_server_it_speaks_of():
    assert refused(entering([(EHLO, "421 bye"), QUIT])).startswith(f"{HOST}:25: ")
    told = dialogue([Unreachable(WireError(f"{HOST}:25: no connection"))])
    assert told.outcomes[0].text.count(HOST) == 1


# --- AUTH ---


def open_login(script, **settings):
    return entering(script, **private(security=Security.INSECURE, **settings))


def test_in_the_open_the_password_stays_home_where_it_can():
    challenge = "<1896.697170952@example.com>"
    digest = hmac.new(PASSWORD.encode(), challenge.encode(), "md5").hexdigest()
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH PLAIN LOGIN CRAM-MD5"),
            (b"AUTH CRAM-MD5", b"334 " + b64(challenge)),
            (b64(f"{USER} {digest}"), "235 ok"),
            *SENT,
        ],
        transport=relay(**private(security=Security.INSECURE)),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_an_old_way_of_offering_auth_is_understood():
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH=LOGIN PLAIN"),
            (b"AUTH PLAIN " + b64(f"\0{USER}\0{PASSWORD}"), "235 ok"),
            *SENT,
        ],
        transport=relay(**private(security=Security.INSECURE)),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_a_token_is_asked_for_when_it_is_needed_and_sent_by_xoauth2():
    told = dialogue(
        [
            Fresh(None),
            offering("STARTTLS"),
            STARTTLS,
            "TLS",
            offering("AUTH PLAIN XOAUTH2"),
            (b"AUTH XOAUTH2 " + b64(f"user={USER}\1auth=Bearer t0ken\1\1"), "235 ok"),
            *SENT,
        ],
        transport=relay(username=USER, token=lambda: "t0ken"),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_a_refused_token_ends_with_an_empty_line_and_the_server_s_last_word():
    told = entering(
        [
            offering("AUTH XOAUTH2"),
            (
                b"AUTH XOAUTH2 " + b64(f"user={USER}\1auth=Bearer t0ken\1\1"),
                b"334 " + b64('{"status":"401"}'),
            ),
            (b"", "535 5.7.8 expired"),
            QUIT,
        ],
        username=USER,
        token=lambda: "t0ken",
        security=Security.INSECURE,
    )
    assert "535 5.7.8 expired" in refused(told)


def bearing(token):
    return b"AUTH XOAUTH2 " + b64(f"user={USER}\1auth=Bearer {token}\1\1")


class Keeping:
    """A token source that keeps its tokens."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)
        self.refused = []

    def __call__(self):
        return self.tokens[0]

    def renew(self, refused):
        self.refused.append(refused)
        del self.tokens[0]
        return self.tokens[0]


def keeping(source):
    return {"username": USER, "token": source, "security": Security.INSECURE}


def test_a_refused_token_is_renewed_and_tried_once_more():
    source = Keeping("stale", "fresh", "unused")
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH XOAUTH2"),
            (bearing("stale"), "535 5.7.8 withdrawn"),
            (bearing("fresh"), "235 ok"),
            *SENT,
        ],
        transport=relay(**keeping(source)),
    )
    assert told.outcomes == [Accepted("250 ok")]
    assert source.refused == ["stale"]


def test_a_token_that_is_refused_again_is_the_end_of_it_and_neither_is_told():
    script = [
        offering("AUTH XOAUTH2"),
        (bearing("t0ken-a"), "535 5.7.8 not t0ken-a"),
        (bearing("t0ken-b"), "535 5.7.8 neither t0ken-a nor t0ken-b"),
        QUIT,
    ]
    text = refused(entering(script, **keeping(Keeping("t0ken-a", "t0ken-b", "t0ken-c"))))
    assert "535 5.7.8 neither *** nor ***" in text


def test_a_function_is_called_again_and_the_same_token_is_not_tried_twice():
    tokens = ["stale", "fresh"]
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH XOAUTH2"),
            (bearing("stale"), "535 no"),
            (bearing("fresh"), "235 ok"),
            *SENT,
        ],
        transport=relay(**keeping(lambda: tokens.pop(0))),
    )
    assert told.outcomes == [Accepted("250 ok")]
    script = [offering("AUTH XOAUTH2"), (bearing("same"), "535 no"), QUIT]
    assert "535 no" in refused(entering(script, **keeping(lambda: "same")))


def test_a_server_that_cannot_say_yet_is_no_reason_to_renew():
    source = Keeping("t0ken")
    script = [offering("AUTH XOAUTH2"), (bearing("t0ken"), "454 4.7.0 later"), QUIT]
    assert "454 4.7.0" in refused(entering(script, **keeping(source)))
    assert source.refused == []


def test_a_long_response_waits_for_its_challenge():
    token = "t" * 600
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH XOAUTH2"),
            (b"AUTH XOAUTH2", "334 "),
            (b64(f"user={USER}\1auth=Bearer {token}\1\1"), "235 ok"),
            *SENT,
        ],
        transport=relay(username=USER, token=lambda: token, security=Security.INSECURE),
    )
    assert told.outcomes == [Accepted("250 ok")]


def test_a_token_source_that_fails_is_our_fault():
    def source():
        raise WireError("the token source failed with KeyError")

    told = entering(
        [offering("AUTH XOAUTH2")], username=USER, token=source, security=Security.INSECURE
    )
    assert "token source failed" in refused(told)


NO_TOKENS = (None, 5, b"t0ken", "", "t0ken\udcff", "t0kén", "t0\nken", "t0 ken", "t0\1ken")


@pytest.mark.parametrize("wrong", NO_TOKENS, ids=ascii)
def test_what_a_token_source_gives_and_is_no_token_is_our_fault_and_is_not_told(wrong):
    told = entering(
        [offering("AUTH XOAUTH2"), QUIT],
        username=USER,
        token=lambda: wrong,
        security=Security.INSECURE,
    )
    text = refused(told)
    assert "MAIL_OAUTH2_TOKEN" in text
    assert "t0" not in text


def test_refused_credentials_name_the_setting_and_the_reply_and_never_the_password():
    secret = b64(f"\0{USER}\0{PASSWORD}").decode()
    for reply in (
        "535 5.7.8 bad credentials",
        f"535 5.7.8 bad credentials {PASSWORD}",
        f"535 5.7.8 bad credentials {secret}",
        f"535 5.7.8 bad credentials {b64(PASSWORD).decode()}",
    ):
        told = open_login([offering("AUTH PLAIN"), (f"AUTH PLAIN {secret}".encode(), reply), QUIT])
        text = refused(told)
        assert text.startswith(f"{HOST}:25: AUTH refused")
        assert "MAIL_USERNAME" in text
        assert "535 5.7.8 bad credentials" in text
        for hidden in (PASSWORD, secret, b64(PASSWORD).decode()):
            assert hidden not in text


@pytest.mark.parametrize("reply", ["454 4.7.0 later", "421 bye", "504 no such mechanism"])
def test_auth_that_fails_in_any_way_is_our_fault(reply):
    secret = b64(f"\0{USER}\0{PASSWORD}")
    told = open_login([offering("AUTH PLAIN"), (b"AUTH PLAIN " + secret, reply), QUIT])
    assert reply in refused(told)


def test_a_server_that_asks_for_more_than_the_mechanism_has_is_left():
    secret = b64(f"\0{USER}\0{PASSWORD}")
    told = open_login([offering("AUTH PLAIN"), (b"AUTH PLAIN " + secret, "334 more"), QUIT])
    assert "AUTH refused" in refused(told)
    told = open_login([offering("AUTH CRAM-MD5"), (b"AUTH CRAM-MD5", "334 n0t base64!"), QUIT])
    assert "AUTH refused" in refused(told)


def test_no_mechanism_in_common_says_what_is_offered():
    text = refused(open_login([offering("AUTH GSSAPI NTLM"), QUIT]))
    assert "GSSAPI, NTLM" in text
    assert "PLAIN" in text


# --- settings ---


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "LOCALHOST."])
def test_on_loopback_credentials_may_go_in_the_open(host):
    told = dialogue(
        [
            Fresh(None),
            offering("AUTH PLAIN"),
            (b"AUTH PLAIN " + b64(f"\0{USER}\0{PASSWORD}"), "235 ok"),
            *SENT,
        ],
        transport=relay(**private(host=host)),
    )
    assert told.outcomes == [Accepted("250 ok")]


@pytest.mark.parametrize("host", ["relay.example.com", "10.0.0.1", "localhost.example.com"])
def test_elsewhere_credentials_in_the_open_are_an_error_at_start_up(host):
    with pytest.raises(ConfigurationError, match="MAIL_USE_TLS") as error:
        relay(**private(host=host, security=Security.NONE))
    assert "?tls=insecure" in str(error.value)
    assert PASSWORD not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"host": ""}, "MAIL_SERVER"),
        ({"host": "a b"}, "MAIL_SERVER"),
        ({"host": "a\r\nb"}, "MAIL_SERVER"),
        ({"port": -1}, "MAIL_PORT"),
        ({"port": 65536}, "MAIL_PORT"),
        ({"username": USER}, "MAIL_PASSWORD"),
        ({"password": PASSWORD}, "MAIL_USERNAME"),
        ({"username": USER, "password": PASSWORD, "token": str}, "choose one"),
        ({"username": "a\0b", "password": PASSWORD}, "NUL"),
        ({"username": "sh\udcfcp", "password": PASSWORD}, "MAIL_USERNAME .* UTF-8"),
        ({"username": USER, "password": f"{PASSWORD}\udcdf"}, "MAIL_PASSWORD .* UTF-8"),
        ({"username": "sh\udcfcp", "token": str}, "MAIL_USERNAME .* UTF-8"),
        ({"ehlo_name": "a\r\nMAIL"}, "MAIL_EHLO_NAME"),
        ({"ehlo_name": "a b"}, "MAIL_EHLO_NAME"),
        ({"ehlo_name": ""}, "MAIL_EHLO_NAME"),
        ({"window": 0}, "window"),
        ({"max_per_line": 0}, "MAIL_MAX_EMAILS"),
    ],
)
def test_a_setting_that_cannot_work_is_an_error_that_names_it(settings, names):
    with pytest.raises(ConfigurationError, match=names) as error:
        relay(**settings)
    assert PASSWORD not in "".join(traceback.format_exception(error.value))


def test_no_repr_shows_a_secret():
    transport = relay(**private())
    door = transport._door
    for shown in map(repr, (transport, door, door.credentials, door.opening)):
        assert PASSWORD not in shown
    assert repr(transport) == f"<Smtp {USER}:***@{HOST}:587 tls=required>"


def test_lines_are_shared_only_by_those_who_would_log_in_alike():
    def account(**settings):
        return relay(**private(**settings))._door.opening.account

    assert account() == account()
    others = (
        {"password": "other"},
        {"username": "other"},
        {"security": Security.INSECURE},
        {"tls": Tls(verify=False)},
        {"ehlo_name": "other.example.com"},
    )
    assert all(account(**other) != account() for other in others)


@pytest.mark.parametrize(
    ("local_ip", "literal"),
    [
        ("192.0.2.7", "[192.0.2.7]"),
        ("2001:db8::7", "[IPv6:2001:db8::7]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
        ("::ffff:192.0.2.7", "[192.0.2.7]"),
        ("", "[127.0.0.1]"),
    ],
)
def test_without_a_name_we_say_our_address(local_ip, literal):
    assert address_literal(local_ip) == literal


def test_the_address_of_the_line_is_what_is_said():
    told = dialogue(
        [Fresh(None, local_ip="2001:db8::7"), (b"EHLO [IPv6:2001:db8::7]", "250 hi"), *SENT],
        transport=relay(ehlo_name=None),
    )
    assert told.outcomes == [Accepted("250 ok")]
