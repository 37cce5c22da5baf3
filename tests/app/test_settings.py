"""MAIL_*: what is read, what is refused by name, and that no secret is shown."""

import json
import logging
import os
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask

from flask_outbox import ConfigurationError, Mail, Message
from flask_outbox.app.settings import KEYS, Settings, read
from flask_outbox.transports.local import Memory
from outbox_mail import KEY, OLD_KEY

NO_KEYS = [4711, {KEY: 1}, "s3cret", [KEY, KEY[:-4]], KEY.replace("b", "!"), [KEY, b"\xff"], [7]]


def test_settings_are_frozen():
    with pytest.raises(AttributeError):
        read({}).port = 26


def test_every_key_has_a_field():
    assert {key.removeprefix("MAIL_").lower() for key in KEYS} | {"given", "suppress_send"} == set(
        Settings.__slots__
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("MAIL_PORT", "587", 587),
        ("MAIL_PORT", 587, 587),
        ("MAIL_USE_TLS", "False", False),
        ("MAIL_USE_TLS", " yes ", True),
        ("MAIL_USE_TLS", None, False),
        ("MAIL_MAX_EMAILS", "", None),
        ("MAIL_MAX_EMAILS", "10", 10),
        ("MAIL_SUPPRESS_SEND", "none", None),
        ("MAIL_SUPPRESS_SEND", "1", True),
        ("MAIL_DEBUG", "2", 2),
        ("MAIL_SERVER", None, ""),
        ("MAIL_LEASE", "45", 45.0),
        ("MAIL_GRACE", timedelta(minutes=1), 60.0),
        ("MAIL_DEFAULT_SENDER", '["A", "a@example.com"]', ("A", "a@example.com")),
        ("MAIL_DEFAULT_SENDER", "", None),
        (
            "MAIL_ALLOW_ONLY",
            "@Exämple.com, Ada@example.org",
            ("@xn--exmple-cua.com", "ada@example.org"),
        ),
        ("MAIL_ALLOW_ONLY", ["example.org", "*@example.net"], ("@example.org", "@example.net")),
        ("MAIL_TRANSPORTS", '{"bulk": "memory:"}', {"bulk": "memory:"}),
        ("MAIL_OUTBOX_URL", "sqlite:///other.db", "sqlite:///other.db"),
        ("MAIL_WORKER", "process", "process"),
        ("MAIL_KEEP_CONTENT", timedelta(days=7), 7 * 86400.0),
        ("MAIL_KEEP_CONTENT", None, None),
        ("MAIL_KEEP_ROWS", "none", None),
        ("MAIL_OUTBOX_KEYS", None, ()),
        ("MAIL_OUTBOX_KEYS", "", ()),
        ("MAIL_OUTBOX_KEYS", KEY.encode(), (KEY,)),
        ("MAIL_OUTBOX_KEYS", [KEY, OLD_KEY.encode()], (KEY, OLD_KEY)),
        ("MAIL_OUTBOX_KEYS", f" {KEY}, {OLD_KEY}\n", (KEY, OLD_KEY)),
        ("MAIL_OUTBOX_KEYS", f'["{KEY}"]', (KEY,)),
        ("MAIL_TLS_FINGERPRINT", "AB:" * 31 + "CD", "ab" * 31 + "cd"),
    ],
)
def test_values_are_read_from_python_and_from_the_environment(key, value, expected):
    assert getattr(read({key: value}), key.removeprefix("MAIL_").lower()) == expected


NO_NAMES = ("a\0b", "\ud800")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MAIL_PORT", "many"),
        ("MAIL_PORT", 70_000),
        ("MAIL_PORT", True),
        ("MAIL_PORT", 25.5),
        ("MAIL_USE_TLS", "perhaps"),
        ("MAIL_USE_TLS", object()),
        ("MAIL_MAX_EMAILS", -1),
        ("MAIL_SERVER", 7),
        ("MAIL_DEFAULT_SENDER", "nobody"),
        ("MAIL_DEFAULT_SENDER", ("a", "b", "c")),
        ("MAIL_DEFAULT_SENDER", "[broken"),
        ("MAIL_TIMEOUT", 0),
        ("MAIL_TIMEOUT", "soon"),
        ("MAIL_LEASE", "inf"),
        ("MAIL_KEEP_ROWS", -1),
        ("MAIL_KEEP_CONTENT", "soon"),
        *(("MAIL_OUTBOX_KEYS", value) for value in NO_KEYS),
        ("MAIL_GRACE", 1e300),
        ("MAIL_GRACE", timedelta.max),
        ("MAIL_TIMEOUT", "1e10"),
        ("MAIL_BASE_URL", "https://"),
        ("MAIL_BASE_URL", "https:///path"),
        ("MAIL_BASE_URL", "https://:443"),
        ("MAIL_BASE_URL", "https://shop.example:x"),
        ("MAIL_BASE_URL", "https://[::1"),
        ("MAIL_BASE_URL", "http://a\nb"),
        ("MAIL_BASE_URL", "http://a b"),
        ("MAIL_BASE_URL", "https://shop.example?page=1"),
        ("MAIL_BASE_URL", "https://shop.example#top"),
        ("MAIL_EHLO_NAME", "@"),
        ("MAIL_EHLO_NAME", "x@y"),
        ("MAIL_EHLO_NAME", "[]"),
        ("MAIL_EHLO_NAME", "a..b"),
        ("MAIL_EHLO_NAME", "-"),
        ("MAIL_WORKER", "thread"),
        ("MAIL_TRANSPORT", "mail.example.com"),
        ("MAIL_TRANSPORTS", ["memory:"]),
        ("MAIL_TRANSPORTS", "memory:"),
        ("MAIL_REDIRECT_TO", "nobody"),
        ("MAIL_ALLOW_ONLY", "not a domain"),
        ("MAIL_OUTBOX_URL", "oracle://localhost/x"),
        ("MAIL_OUTBOX_URL", "sqlite:///"),
        ("MAIL_OUTBOX_URL", "sqlite:///a\0b"),
        ("MAIL_OUTBOX_URL", "sqlite:///a\nb"),
        ("MAIL_OUTBOX_URL", "sqlite:///\ud800"),
        ("MAIL_TLS_FINGERPRINT", "abc"),
        ("MAIL_TLS_CA_FILE", "/does/not/exist.pem"),
        *((f"MAIL_TLS_{what}_FILE", name) for what in ("CA", "CERT", "KEY") for name in NO_NAMES),
        ("MAIL_RETURN_PATH", "a@b@c"),
        ("MAIL_OAUTH2_TOKEN", "a token"),
        ("MAIL_CONNECTIONS", 0),
        ("MAIL_ATTACHMENT_ROOTS", [7]),
        ("MAIL_ATTACHMENT_ROOTS", Path("/")),
    ],
)
def test_a_wrong_value_names_the_key_at_start_up(key, value):
    with pytest.raises(ConfigurationError, match=key):
        Mail(app_with(**{key: value}))


@pytest.mark.parametrize("value", [0.001, "0.5", 0.999, timedelta(milliseconds=900)])
def test_a_lease_that_could_not_be_kept_stops_the_app_and_says_why(value):
    with pytest.raises(ConfigurationError, match=r"MAIL_LEASE must be 1 second or more: .*twice"):
        Mail(app_with(MAIL_LEASE=value))
    assert read({"MAIL_LEASE": "1"}).lease == 1.0


def test_folders_to_attach_from_are_read_from_python_and_from_the_environment(tmp_path):
    one, other = tmp_path / "one", tmp_path / "with, comma"
    one.mkdir()
    other.mkdir()
    for value, expected in (
        (f"{one}, {tmp_path}", (str(one), str(tmp_path))),
        (json.dumps([str(other)]), (str(other),)),
        ([one, str(other)], (str(one), str(other))),
        ("", ()),
        (None, ()),
    ):
        assert read({"MAIL_ATTACHMENT_ROOTS": value}).attachment_roots == expected


@pytest.mark.parametrize(
    ("root", "fix"),
    [
        ("inside", "absolute path: put app.root_path"),
        ("~/inside", "absolute path"),
        ("{here}/missing", "folder that exists: make it"),
        ("{here}/file", "folder that exists"),
        ("{here}/nul\0", "folder that exists"),
        ("{here}/" + 300 * "x", "folder that exists"),
    ],
)
def test_a_folder_to_attach_from_that_cannot_be_one_stops_the_app_and_says_what_to_do(
    tmp_path, monkeypatch, root, fix
):
    (tmp_path / "inside").mkdir()
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    roots = [str(tmp_path), root.format(here=tmp_path)]
    for value in (roots, ",".join(roots), json.dumps(roots)):
        with pytest.raises(ConfigurationError, match=rf"MAIL_ATTACHMENT_ROOTS\[1\] .* {fix}"):
            Mail(app_with(MAIL_ATTACHMENT_ROOTS=value))


def app_with(**config):
    app = Flask("shop")
    app.config.update(config)
    return app


@pytest.mark.parametrize(
    ("value", "tiers"),
    [
        (["memory:", "null:"], [{"default.memory": 1.0}, {"default.null": 1.0}]),
        ({"memory:": 3, "null:": 1}, [{"default.memory": 3.0, "default.null": 1.0}]),
        (
            [{"memory:": 3, "null:": 1}, "console:"],
            [{"default.memory": 3.0, "default.null": 1.0}, {"default.console": 1.0}],
        ),
        ('["memory:", {"null:": 0.5}]', [{"default.memory": 1.0}, {"default.null": 0.5}]),
        (["null:", "null:"], [{"default.null": 1.0}, {"default.null-2": 1.0}]),
        (
            {"ses://?region=eu-west-1": 3, "ses://?region=us-east-1": 1},
            [{"default.ses-eu-west-1": 3.0, "default.ses-us-east-1": 1.0}],
        ),
        (
            ["mailgun://key@mg.example.com", "sendgrid://key@", "smtp://a.example.com:26?tls=none"],
            [
                {"default.mailgun-mg.example.com": 1.0},
                {"default.sendgrid": 1.0},
                {"default.smtp-a.example.com": 1.0},
            ],
        ),
        (["null:"], [{"default.null": 1.0}]),
        ("null:", [{"default": 1.0}]),
    ],
)
def test_a_list_is_a_failover_and_a_mapping_shares_the_mail(value, tiers):
    app = app_with(MAIL_TRANSPORT=value)
    Mail(app)
    assert [dict(each) for each in app.extensions["outbox"].way().routing.tiers] == tiers


def ways(urls):
    app = app_with(MAIL_TRANSPORT=urls)
    Mail(app)
    return app.extensions["outbox"].way().routes


def test_a_long_name_of_a_route_fits_and_is_its_own():
    names = ways([f"smtp://{'x' * 60}{name}.example.com" for name in "ab"])
    assert max(map(len, names)) == 64
    assert len(names) == 2


ONE_KIND = [
    ["smtp://a.example.com:25?tls=none", "smtp://a.example.com:26?tls=none"],
    ["smtps://ada:secret@a.example.com", "smtps://bob:secret@a.example.com"],
    ["sendgrid://one@", "sendgrid://two@"],
    ["resend://one@", "resend://one@?home=https://resend.example.com"],
    ["mailgun://one@mg.example.com", "mailgun://two@mg.example.com"],
    ["postmark://one@", "postmark://one@?stream=bulk"],
    ["ses://AKIAONE:secret@?region=eu-west-1", "ses://?region=eu-west-1"],
    ["ses://?region=eu-west-1&configuration_set=one", "ses://?region=eu-west-1"],
    ["folder:/tmp/one", "folder:/tmp/two"],
]


@pytest.mark.parametrize("urls", ONE_KIND, ids=lambda urls: urls[0].partition(":")[0])
def test_two_ways_of_one_kind_are_called_the_same_in_another_order(urls):
    there, back = (
        {way.identity: name for name, way in ways(each).items()} for each in (urls, urls[::-1])
    )
    assert there == back
    assert len({*there.values()}) == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("smtps://ada:before@a.example.com", "smtps://ada:after@a.example.com"),
        ("ses://AKIAONE:before@?region=eu-west-1", "ses://AKIATWO:after@?region=eu-west-1"),
        ("sendgrid://before@", "sendgrid://after@"),
    ],
)
def test_another_password_is_the_same_route(before, after):
    assert [*ways([before, "null:"])] == [*ways([after, "null:"])]


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [7],
        ["canary"],
        [["null:"]],
        {"null:": 0},
        {"null:": -1},
        {"null:": "3"},
        {"null:": True},
        {"null:": float("inf")},
        {"null:": float("nan")},
        '["null:", ',
        '{"null:": "canary"}',
    ],
)
@pytest.mark.parametrize("where", ["MAIL_TRANSPORT", "MAIL_TRANSPORTS"])
def test_what_is_no_way_out_is_named_and_not_quoted(where, value):
    given = value if where == "MAIL_TRANSPORT" else {"bulk": value}
    with pytest.raises(
        ConfigurationError, match=r"MAIL_TRANSPORTS\['bulk'\]|MAIL_TRANSPORT"
    ) as caught:
        Mail(app_with(**{where: given}))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("url", ["smtps://u:canary@relay.example.com", "sendgrid://canary@"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MAIL_TRANSPORTS", 3),
        ("MAIL_TRANSPORTS", "memory:"),
        *(("MAIL_RATE", "5/s"), ("MAIL_CONCURRENCY", 5), ("MAIL_DOMAIN_RATES", "5/s")),
        *(("MAIL_DOMAIN_CONCURRENCY", 5), ("MAIL_WARM_UP", "2026-12-01")),
    ],
)
@pytest.mark.parametrize("written", [dict, json.dumps], ids=["a mapping", "JSON"])
def test_a_url_where_a_name_belongs_is_refused_and_not_quoted(key, value, url, written):
    with pytest.raises(ConfigurationError, match=key) as caught:
        Mail(app_with(**{key: written({url: value})}))
    assert "canary" not in str(caught.value)


def test_a_wrong_url_in_a_list_names_the_key():
    with pytest.raises(ConfigurationError, match=r"MAIL_TRANSPORTS\['bulk'\]: unknown scheme"):
        Mail(app_with(MAIL_TRANSPORTS={"bulk": ["null:", "pigeon://x"]}))


def test_a_transport_that_is_called_like_anothers_route_is_refused():
    with pytest.raises(ConfigurationError, match=r"MAIL_TRANSPORTS .*'default\.null'"):
        Mail(
            app_with(MAIL_TRANSPORT=["null:", "memory:"], MAIL_TRANSPORTS={"default.null": "null:"})
        )


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
def test_a_name_that_no_transport_can_have_is_refused(name):
    with pytest.raises(ConfigurationError, match=r"MAIL_TRANSPORTS: the name .* 1 to 64 printable"):
        Mail(app_with(MAIL_TRANSPORTS={name: "null:"}))


@pytest.mark.parametrize("url", ["console://", "console:", "folder:out", "memory://", "null:"])
def test_a_transport_is_one_url(url):
    app = app_with(MAIL_TRANSPORT=url)
    Mail(app)
    assert app.extensions["outbox"].transport().name == url.partition(":")[0]


def test_a_transport_may_be_an_object():
    memory = Memory()
    app = app_with(MAIL_TRANSPORTS={"default": memory, "bulk": "null:"})
    Mail(app)
    assert app.extensions["outbox"].transport() is memory
    assert app.extensions["outbox"].names() == ["default", "bulk"]


def test_a_wrong_url_of_a_named_transport_names_it():
    with pytest.raises(ConfigurationError, match=r"MAIL_TRANSPORTS\['bulk'\]"):
        Mail(app_with(MAIL_TRANSPORTS={"bulk": "carrier-pigeon://x"}))


def test_the_default_transport_is_said_once():
    with pytest.raises(ConfigurationError, match="MAIL_TRANSPORTS"):
        Mail(app_with(MAIL_TRANSPORT="null:", MAIL_TRANSPORTS={"default": "null:"}))


def test_a_certificate_needs_its_key(tmp_path):
    (tmp_path / "cert.pem").write_text("x")
    with pytest.raises(ConfigurationError, match="MAIL_TLS_KEY_FILE"):
        Mail(app_with(MAIL_TLS_CERT_FILE=str(tmp_path / "cert.pem")))


def test_a_secret_may_stand_in_a_file(tmp_path):
    (tmp_path / "password").write_text("s3cret\n")
    assert read({"MAIL_PASSWORD_FILE": str(tmp_path / "password")}).password == "s3cret"
    (tmp_path / "url").write_text("smtps://a:b@mail.example.com\n")
    (tmp_path / "keys").write_text(f"{KEY}\n{OLD_KEY}\n")
    assert read({"MAIL_OUTBOX_KEYS_FILE": str(tmp_path / "keys")}).outbox_keys == (KEY, OLD_KEY)
    assert read({"MAIL_TRANSPORT_FILE": str(tmp_path / "url")}).transport.startswith("smtps:")


def test_a_secret_and_its_file_are_one_too_many(tmp_path):
    (tmp_path / "password").write_text("s3cret\n")
    with pytest.raises(ConfigurationError, match="MAIL_PASSWORD_FILE"):
        read({"MAIL_PASSWORD": "a", "MAIL_PASSWORD_FILE": str(tmp_path / "password")})
    with pytest.raises(ConfigurationError, match="MAIL_PASSWORD_FILE"):
        read({"MAIL_PASSWORD_FILE": str(tmp_path / "missing")})


def test_an_unknown_key_is_warned_of_with_what_was_perhaps_meant(caplog):
    Mail(app_with(MAIL_SEVRER="x", MAIL_PASWORD_FILE="x", MAIL_MERGE_TAGS="x", OTHER="x"))
    assert "MAIL_SEVRER is not a setting of Flask-Outbox: did you mean MAIL_SERVER?" in caplog.text
    assert "did you mean MAIL_PASSWORD_FILE?" in caplog.text
    assert "MAIL_MERGE_TAGS is not a setting of Flask-Outbox." in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "OTHER" not in caplog.text


@pytest.mark.parametrize("key", ["MAIL_USERNAME", "MAIL_PASSWORD"])
def test_a_login_that_the_environment_has_in_latin_1_stops_the_app_and_is_not_told(key):
    config = {"MAIL_USERNAME": "shop", "MAIL_PASSWORD": "s3cret"}
    config[key] = os.fsdecode("canary-wört".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=f"{key} .* UTF-8") as caught:
        Mail(app_with(**config))
    error = caught.value
    assert "canary" not in repr((error, vars(error), error.__cause__, error.__context__))
    mail = Mail(app := app_with(**{**config, key: "good"}))
    with app.app_context():
        setattr(mail, key.removeprefix("MAIL_").lower(), config[key])
        with pytest.raises(ConfigurationError, match=f"{key} .* UTF-8"):
            mail.send(Message("hi", ["ada@example.org"], "text", sender="shop@example.com"))


def test_no_secret_is_in_a_repr_or_an_error():
    config = {
        "MAIL_PASSWORD": "canary-1",
        "MAIL_TRANSPORT": "smtp://ada:canary-2@mail.example.com?tls=required",
        "MAIL_TRANSPORTS": {"bulk": "smtp://ada:canary-3@mail.example.com?tls=required"},
    }
    app = app_with(**config)
    mail = Mail(app)
    runtime = app.extensions["outbox"]
    shown = [repr(each) for each in (read(config), mail, mail.state, runtime, runtime.transport())]
    for wrong in (
        {"MAIL_TRANSPORT": "canary-4"},
        {"MAIL_TRANSPORT": "smtp://ada:canary-5@mail.example.com:x"},
        {"MAIL_TRANSPORTS": {"bulk": "canary-6"}},
        {"MAIL_PASSWORD": 7},
        {"MAIL_OUTBOX_URL": "oracle://u:canary-7@localhost/x"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            Mail(app_with(**wrong))
        shown.append(str(caught.value))
    assert "canary" not in json.dumps(shown)


def test_mail_may_be_set_up_twice_and_after_a_request():
    app = app_with(TESTING=True)
    app.add_url_rule("/", view_func=lambda: "ok")
    assert app.test_client().get("/").text == "ok"
    mail = Mail(app)
    first = app.extensions["outbox"]
    assert mail.init_app(app) is not first.state
    assert app.test_client().get("/").text == "ok"
    assert len(app.before_request_funcs[None]) == 1


def test_the_outbox_is_below_the_instance_folder_unless_said_otherwise(tmp_path):
    app = Flask("shop", instance_path=str(tmp_path))
    Mail(app)
    assert app.extensions["outbox"].where == tmp_path / "outbox.sqlite3"
    app.config["MAIL_OUTBOX_URL"] = "sqlite:///mail/own.db"
    Mail(app)
    assert app.extensions["outbox"].where == tmp_path / "mail" / "own.db"
    app.config["MAIL_OUTBOX_URL"] = f"sqlite:///{tmp_path}/abs.db"
    Mail(app)
    assert app.extensions["outbox"].where == tmp_path / "abs.db"


@pytest.mark.parametrize(
    "value", ["mail.example.com:587", "smtp://mail.example.com", "a@mail.example.com", "host/x"]
)
def test_a_server_with_more_than_its_name_is_refused_saying_where_the_rest_belongs(value):
    with pytest.raises(ConfigurationError, match=r"MAIL_SERVER .* MAIL_PORT, .* MAIL_TRANSPORT"):
        read({"MAIL_SERVER": value})


@pytest.mark.parametrize("value", ["mail.example.com", "192.0.2.1", "2001:db8::1", "::1"])
def test_a_server_is_a_name_or_an_address(value):
    assert read({"MAIL_SERVER": value}).server == value


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("smtp://host.example:99999", "MAIL_TRANSPORT: the port has to be"),
        ("smtp://", "MAIL_TRANSPORT: the host has to be"),
        ("smtp://u:p@host.example?tls=none", "MAIL_TRANSPORT: .*tls=insecure"),
    ],
)
def test_what_is_wrong_in_a_url_is_said_of_the_url(url, text):
    app = Flask("shop")
    app.config["MAIL_TRANSPORT"] = url
    with pytest.raises(ConfigurationError, match=text):
        Mail(app)


def test_links_begin_with_a_web_address():
    assert read({"MAIL_BASE_URL": "https://shop.example"}).base_url == "https://shop.example"
    with pytest.raises(ConfigurationError, match=r"MAIL_BASE_URL must be a URL"):
        read({"MAIL_BASE_URL": "shop.example"})


@pytest.mark.parametrize(
    "url", ["http://localhost:5000", "https://[::1]:8000/shop", "https://Bücher.example/a"]
)
def test_links_may_begin_with_a_port_or_a_path(url):
    assert read({"MAIL_BASE_URL": url}).base_url == url


@pytest.mark.parametrize("name", ["mx_1.example.com", "a", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_we_may_call_ourselves_by_a_host_name_or_an_address_in_brackets(name):
    Mail(app_with(MAIL_EHLO_NAME=name))


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("sqlite:///:memory:", "TESTING"),
        ("sqlite:///x.db?mode=ro", "leave out what begins with '\\?'"),
        ("sqlite:///file:x?mode=memory&uri=true", "leave out what begins with '\\?'"),
    ],
)
def test_an_outbox_that_is_no_file_stops_the_app_and_says_what_to_do(url, fix):
    with pytest.raises(ConfigurationError, match=f"MAIL_OUTBOX_URL .*{fix}"):
        Mail(app_with(MAIL_OUTBOX_URL=url))


def test_a_file_of_authorities_that_holds_none_stops_the_app_and_names_the_key(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("these are no certificates\n")
    app = Flask(__name__)
    app.config.update(MAIL_SERVER="mail.example.com", MAIL_TLS_CA_FILE=str(file))
    with pytest.raises(ConfigurationError, match="MAIL_TLS_CA_FILE"):
        Mail(app)
