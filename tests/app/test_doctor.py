"""flask outbox doctor: each fault of a set-up is found by a check that says what to do about it."""

import contextlib
import json
import socket
import sqlite3
import sys
import threading
from time import time

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet
from flask import Flask
from flask.cli import FlaskGroup
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, create_engine, event, text, update

import certificates
import relay
from flask_outbox import Mail, include_object
from flask_outbox.app import doctor_app, doctor_outbox
from flask_outbox.app.doctor import examine
from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Grade
from flask_outbox.mail.exchange import HttpRequest, Tls
from flask_outbox.outbox.tables import message
from flask_outbox.outbox.workers import heartbeat
from flask_outbox.transports.resend import Resend
from flask_outbox.wire import aws, sync
from hostile import Hostile, say
from hostile_http import HostileHttp
from outbox_mail import put

NOW = 1_700_000_000.0
DOCTOR = ("outbox", "doctor", "--no-dns")


@pytest.fixture
def shop(tmp_path):
    made = []

    def make(db=None, engine=None, **config):
        app = Flask("shop", instance_path=str(tmp_path / "instance"), root_path=str(tmp_path))
        plain = {
            "SECRET_KEY": "key",
            "MAIL_TRANSPORT": "null:",
            "MAIL_DEFAULT_SENDER": "shop@example.com",
        }
        given = {**plain, **config}
        app.config.update({key: value for key, value in given.items() if value is not None})
        if db is not None:
            db.init_app(app)
        Mail(app, engine=engine)
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["outbox"].close()


@pytest.fixture(scope="session")
def postfix():
    with relay.running() as running:
        yield running


def now():
    return NOW


def found(app, *checks, now=now):
    """What is found, by check, less what is well."""
    patient = Patient(runtime=app.extensions["outbox"], now=now, seconds=20, dns=False)
    with app.app_context():
        findings = list(examine(patient, lambda _: None))
    assert all(each.fix for each in findings if each.severity in {Grade.WARNING, Grade.ERROR})
    return [each for each in findings if each.check in checks]


def one(app, check, **more):
    (finding,) = found(app, check, **more)
    return finding.severity.value, finding.text, finding.fix


def settings(app):
    """What is found of the settings alone, where no transport is to be asked for."""
    patient = Patient(runtime=app.extensions["outbox"], now=now, dns=False)
    (finding,) = doctor_app.settings(patient)
    return finding.severity.value, finding.text, finding.fix


def doctor(app, *options):
    return app.test_cli_runner().invoke(args=[*DOCTOR, *options])


class Nobody:
    """An engine of an app that tells nobody."""

    def wake(self, due_at):
        pass


def overdue(outbox):
    """Put a mail there that should have gone long ago."""
    put(outbox)
    with outbox.begin() as connection:
        connection.execute(update(message).values(due_at=message.c.due_at - 200))


class TestSettings:
    def test_of_an_app_that_can_send_are_well(self, shop):
        assert one(shop(), "settings")[0] == "ok"

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"MAIL_SERVR": "x"}, ("MAIL_SERVR", "MAIL_SERVER")),
            ({"MAIL_ODD": "x"}, ("MAIL_ODD", "Take it out")),
            ({"MAIL_SUPPRESS_SEND": True}, ("Nothing is sent", "Set neither")),
            ({"MAIL_TRANSPORT": None}, ("port 25", "MAIL_SERVER")),
            ({"MAIL_DEFAULT_SENDER": None}, ("MAIL_DEFAULT_SENDER", "Set it")),
            ({"MAIL_REDIRECT_TO": ["dev@x.test"]}, ("MAIL_REDIRECT_TO", "Take it out")),
            ({"MAIL_ALLOW_ONLY": ["x.test"]}, ("MAIL_ALLOW_ONLY", "Take it out")),
        ],
    )
    def test_that_would_surprise_somebody_are_told(self, shop, config, words):
        severity, what, fix = one(shop(**config), "settings")
        assert severity == "warning"
        assert words[0] in what
        assert words[1] in fix

    def test_that_could_never_send_are_an_error_though_nothing_is_sent_now(self, shop):
        app = shop(MAIL_SUPPRESS_SEND=True, MAIL_TRANSPORT=None, MAIL_SERVER="")
        severity, what, _ = one(app, "settings")
        assert severity == "error"
        assert what.startswith("MAIL_SERVER is empty: set it")

    @pytest.mark.parametrize(("celery", "words"), [(None, "is not set"), (object(), "register")])
    def test_with_a_celery_that_sends_no_mail_are_an_error(self, shop, celery, words):
        app = shop(MAIL_WORKER="celery")
        if celery is not None:
            app.extensions["celery"] = celery
        severity, what, fix = one(app, "settings")
        assert severity == "error"
        assert words in what
        assert "send_later takes no mail" in fix

    PROVIDERS = (
        *("postmark://t@", "sendgrid://t@", "resend://t@", "mailgun://t@mg.example.com"),
        ["smtp://127.0.0.1:1", "postmark://t@"],
    )

    @pytest.mark.parametrize("way", PROVIDERS)
    def test_by_which_no_mail_is_taken_are_an_error_that_names_the_transport(self, shop, way):
        app = shop(MAIL_TRANSPORT=way, MAIL_RETURN_PATH="b@bounce.example.com")
        severity, what, fix = settings(app)
        assert severity == "error"
        assert "cannot carry a return_path of its own" in what
        assert what.startswith("default.postmark: " if isinstance(way, list) else "default: ")
        assert "MAIL_RETURN_PATH" in fix
        assert settings(shop(MAIL_TRANSPORT=way))[0] == "ok"

    def test_are_tried_by_no_function_of_the_app(self, shop):
        app = shop()
        app.extensions["outbox"].hooks.before_send.append(lambda _: 1 / 0)
        assert settings(app)[0] == "ok"

    def test_that_leave_nobody_to_send_to_are_not_taken_for_others(self, shop):
        app = shop(MAIL_TRANSPORT="postmark://t@", MAIL_ALLOW_ONLY=["x.test"])
        assert settings(app)[0] == "warning"

    def test_that_take_no_message_at_all_are_an_error_besides_what_else_is_told(self, shop):
        app = shop(MAIL_MAX_SIZE=10, MAIL_ODD="x")
        odd, size = found(app, "settings")
        assert (odd.severity, size.severity) == (Grade.WARNING, Grade.ERROR)
        assert "10 octets" in size.text


class TestKeys:
    def test_that_work_are_well(self, shop):
        (first, dkim) = found(shop(), "keys")
        assert (first.severity, dkim.severity) == (Grade.OK, Grade.SKIPPED)

    def test_that_are_not_there_are_missed(self, shop):
        first, second, _ = found(shop(SECRET_KEY=None), "keys")
        assert (first.severity, "SECRET_KEY" in first.fix) == (Grade.WARNING, True)
        assert (second.severity, "MAIL_OUTBOX_KEYS" in second.fix) == (Grade.WARNING, True)

    def test_of_the_outbox_alone_are_enough_for_sensitive_mail(self, shop):
        app = shop(SECRET_KEY=None, MAIL_OUTBOX_KEYS=Fernet.generate_key().decode())
        assert [each.severity.value for each in found(app, "keys")] == ["warning", "ok", "skipped"]


@pytest.mark.parametrize(
    ("url", "severity"),
    [(None, "skipped"), ("http://shop.test", "warning"), ("https://shop.test", "ok")],
)
def test_links_that_are_not_https_are_told(shop, url, severity):
    assert one(shop(MAIL_BASE_URL=url), "base URL")[0] == severity


def test_in_debug_mode_links_need_no_https(shop):
    app = shop(MAIL_BASE_URL="http://127.0.0.1:5000")
    app.debug = True
    assert one(app, "base URL")[0] == "ok"


class TestOutbox:
    def test_is_not_made_by_being_looked_at(self, shop):
        app = shop()
        assert [each.severity for each in found(app, "outbox", "schema")] == [Grade.SKIPPED]
        assert not app.extensions["outbox"].exists

    @pytest.mark.parametrize("place", ["/proc/nope/x.sqlite3", "{}/a/b/x.sqlite3", "{}/file/x"])
    def test_that_can_never_be_made_is_an_error(self, shop, tmp_path, place):
        (tmp_path / "file").write_text("no folder")
        severity, what, fix = one(
            shop(MAIL_OUTBOX_URL=f"sqlite:///{place}".format(tmp_path)), "outbox"
        )
        assert severity == "error"
        assert "cannot be made" in what
        assert "MAIL_OUTBOX_URL" in fix

    @pytest.mark.parametrize("place", ["x.sqlite3", "new/x.sqlite3"])
    def test_that_can_be_made_is_not_made_by_the_trial(self, shop, tmp_path, place):
        before = sorted(tmp_path.rglob("*"))
        assert one(shop(MAIL_OUTBOX_URL=f"sqlite:///{tmp_path / place}"), "outbox")[0] == "skipped"
        assert sorted(tmp_path.rglob("*")) == before

    def test_on_each_database_has_its_schema_its_durability_and_its_clock_looked_at(
        self, shop, database
    ):
        app = shop(MAIL_OUTBOX_URL=database)
        runtime = app.extensions["outbox"]
        runtime.outbox.upgrade()
        with runtime.outbox.read() as connection:
            now = runtime.outbox.now(connection)
        findings = found(app, "schema", "durability", "clock", now=lambda: now)
        assert [(each.check, each.severity.value) for each in findings] == [
            ("schema", "ok"),
            ("durability", "ok"),
            ("clock", "ok"),
        ]
        assert one(app, "clock", now=lambda: now - 3600)[0] == "warning"
        assert " s ahead of this machine's" in one(app, "clock", now=lambda: now - 3600)[1]
        assert " s behind this machine's" in one(app, "clock", now=lambda: now + 3600)[1]

    def test_whose_mail_is_due_and_the_apps_own_engine_looks_after_nothing_is_told(
        self, shop, tmp_path
    ):
        app = shop(engine=Nobody(), MAIL_OUTBOX_URL=f"sqlite:///{tmp_path / 'shop.sqlite3'}")
        overdue(app.extensions["outbox"].outbox)
        severity, what, fix = one(app, "workers")
        assert (severity, "mail.drain()" in fix) == ("warning", True), (what, fix)

    @pytest.mark.parametrize(
        ("kind", "word"),
        [("embedded", "request"), ("process", "outbox worker"), ("celery", "task_routes")],
    )
    def test_whose_mail_is_due_and_looked_after_by_nobody_says_how_that_begins(
        self, shop, database, kind, word
    ):
        app = shop(MAIL_OUTBOX_URL=database, MAIL_WORKER=kind)
        outbox = app.extensions["outbox"].outbox
        outbox.upgrade()
        put(outbox)
        assert one(app, "workers")[0] == "ok"
        overdue(outbox)
        severity, what, fix = one(app, "workers")
        assert (severity, word in fix) == ("warning", True), (what, fix)
        heartbeat(outbox, "w1", host="there", pid=1)
        assert one(app, "workers")[0] == "ok"

    def test_that_took_its_time_to_answer_has_no_wrong_clock(self, shop, tmp_path):
        app = shop(MAIL_OUTBOX_URL=f"sqlite:///{tmp_path / 'shop.sqlite3'}")
        app.extensions["outbox"].outbox.upgrade()
        waited = []

        def wait(*_):
            waited.append(3600)

        event.listen(Engine, "connect", wait)
        try:
            severity, what, _ = one(app, "clock", now=lambda: time() - 3600 + sum(waited))
        finally:
            event.remove(Engine, "connect", wait)
        assert (severity, waited) == ("ok", [3600]), what

    def test_on_a_server_that_has_no_tables_yet_is_an_error_that_names_the_command(
        self, shop, postgresql
    ):
        severity, _, fix = one(shop(MAIL_OUTBOX_URL=postgresql.new()), "schema")
        assert (severity, fix) == ("error", "Run `flask outbox upgrade`.")

    def test_of_a_file_with_an_old_schema_is_left_as_it_is(self, shop, tmp_path):
        place = tmp_path / "old.sqlite3"
        app = shop(MAIL_OUTBOX_URL=f"sqlite:///{place}")
        app.extensions["outbox"].outbox.upgrade()
        engine = create_engine(f"sqlite:///{place}")
        with engine.begin() as connection:
            connection.execute(text("UPDATE outbox_version SET version_num = '0002'"))
        assert "next use" in one(app, "schema")[1]
        with engine.begin() as connection:
            kept = connection.execute(text("SELECT version_num FROM outbox_version")).scalar()
        engine.dispose()
        assert kept == "0002"

    def test_that_may_lose_what_it_acknowledged_is_told(self, shop, postgresql):
        url = postgresql.new()
        name = url.rpartition("/")[2]
        postgresql.ask(f"ALTER DATABASE {name} SET synchronous_commit = off")
        app = shop(MAIL_OUTBOX_URL=url)
        app.extensions["outbox"].outbox.upgrade()
        severity, what, fix = one(app, "durability")
        assert (severity, fix) == ("warning", "Switch it on.")
        assert what.startswith("synchronous_commit is off")

    def test_that_cannot_be_used_is_an_error(self, shop):
        app = shop(MAIL_OUTBOX_URL="postgresql://outbox:s3cret@127.0.0.1:1/none")
        severity, what, _ = one(app, "outbox")
        assert severity == "error"
        assert "s3cret" not in what


class TestAnOutboxThatDoesNotAnswer:
    @pytest.fixture(autouse=True)
    def _leaves_nobody_waiting(self):
        """Once a test has let go, what the doctor gave up ends by itself."""
        yield
        for thread in threading.enumerate():
            if thread.name == "flask-outbox-look-up":
                thread.join(30)
                assert not thread.is_alive()

    def told(self, app):
        patient = Patient(runtime=app.extensions["outbox"], now=now, seconds=0.1, dns=False)
        with app.app_context():
            (finding,) = doctor_outbox.outbox(patient)
        assert (finding.check, finding.severity) == ("outbox", Grade.ERROR)
        assert "--timeout" in finding.fix
        return finding.text

    @pytest.mark.parametrize("kind", ["postgresql", "mysql"])
    def test_is_not_waited_for_any_longer_than_was_asked_for(self, shop, kind):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            place = f"{kind}://127.0.0.1:{port}/shop"
            text = self.told(shop(MAIL_OUTBOX_URL=f"{kind}://ada:s3cret@127.0.0.1:{port}/shop"))
        assert text == f"{place} did not answer within 0.1 s."

    def test_since_another_program_has_its_lock_is_not_waited_for(self, shop, tmp_path):
        place = tmp_path / "shop.sqlite3"
        app = shop(MAIL_OUTBOX_URL=f"sqlite:///{place}")
        app.extensions["outbox"].outbox.upgrade()
        with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as shell:
            shell.execute("PRAGMA locking_mode = EXCLUSIVE")
            shell.execute("BEGIN EXCLUSIVE")
            assert self.told(app) == f"{place} did not answer within 0.1 s."


class TestMigrations:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path, monkeypatch):
        """The folder that `flask` is run in; the app's own is below it."""
        monkeypatch.chdir(tmp_path)

    def beside(self, shop, tmp_path, *, env=None, **options):
        place = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
        db = SQLAlchemy()
        app = shop(db, SQLALCHEMY_DATABASE_URI=place, MAIL_OUTBOX_URL=place)
        app.root_path = str(tmp_path / "shop")
        Migrate(app, db, **options)
        if env is not None:
            folder = tmp_path / options.get("directory", "migrations")
            folder.mkdir()
            (folder / "env.py").write_text(env)
        return app

    @pytest.mark.parametrize(
        "env",
        [
            "context.configure(connection=connection)",
            "context.configure(include_object=None)",
            "if given.get('include_object') is None: context.configure()",
            "# include_object\ncontext.configure()",
            "from flask_outbox import include_object\ncontext.configure()",
            '"""Tables as include_object has them."""',
            "no (Python",
        ],
    )
    def test_that_would_drop_our_tables_are_an_error(self, shop, tmp_path, env):
        severity, _, fix = one(self.beside(shop, tmp_path, env=env), "migrations")
        assert severity == "error"
        assert "include_object" in fix

    @pytest.mark.parametrize("include", [include_object, lambda _, name, *__: "outbox" not in name])
    def test_that_were_given_include_object_are_well(self, shop, tmp_path, include):
        app = self.beside(shop, tmp_path, env="", include_object=include)
        assert one(app, "migrations")[0] == "ok"

    @pytest.mark.parametrize(
        ("include", "severity", "words"),
        [
            (lambda _, name, *__: name != "spatial_ref_sys", "error", "own include_object lets"),
            (lambda _, name, *__: name != "outbox_message", "error", "own include_object lets"),
            (lambda *_: 1 / 0, "warning", "own include_object may let"),
            (None, "error", "nothing tells"),
        ],
    )
    def test_that_were_given_another_are_asked_what_that_spares(
        self, shop, tmp_path, include, severity, words
    ):
        app = self.beside(shop, tmp_path, env="", include_object=include)
        told, what, fix = one(app, "migrations")
        assert (told, words in what) == (severity, True), what
        assert "has to ask ours" in fix

    OURS = "from flask_outbox import include_object as ours"
    ASKS = "def ours(*of):\n    return flask_outbox.include_object(*of) and of[1] != 'spatial'"

    @pytest.mark.parametrize(
        "env",
        [
            f"{OURS}\ncontext.configure(include_object=ours)",
            f"{OURS}\ngiven['include_object'] = ours",
            f"{OURS}\ngiven.setdefault('include_object', ours)",
            f"{OURS}\ncontext.configure(**{{'include_object': ours, **given}})",
            f"{OURS}\ncontext.configure(include_object=lambda *of: ours(*of))",
            "import flask_outbox\ncontext.configure(include_object=flask_outbox.include_object)",
            "import flask_outbox as mail\ncontext.configure(include_object=mail.include_object)",
            f"import flask_outbox\n{ASKS}\ncontext.configure(include_object=ours)",
        ],
    )
    def test_that_have_it_in_env_py_are_well(self, shop, tmp_path, env):
        app = self.beside(shop, tmp_path, env=env)
        assert one(app, "migrations")[0] == "ok"

    @pytest.mark.parametrize(
        "env",
        [
            "def own(*of):\n    return True\ncontext.configure(include_object=own)",
            "from shop import include_object\ncontext.configure(include_object=include_object)",
            "import flask_outbox\ncontext.configure(include_object=shop.include_object)",
            f"{OURS}\ndef ours(*of):\n    return True\ncontext.configure(include_object=ours)",
            f"{OURS}\nconfigure(include_object=ours)\nconfigure(include_object=another)",
        ],
    )
    def test_that_have_another_in_env_py_are_a_warning(self, shop, tmp_path, env):
        severity, what, fix = one(self.beside(shop, tmp_path, env=env), "migrations")
        assert (severity, "may let" in what) == ("warning", True), what
        assert "has to ask ours" in fix

    def test_that_have_it_in_env_py_are_well_whatever_else_was_given(self, shop, tmp_path):
        env = f"{self.OURS}\ncontext.configure(**{{**given, 'include_object': ours}})"
        app = self.beside(shop, tmp_path, env=env, include_object=lambda *_: True)
        assert one(app, "migrations")[0] == "ok"

    def test_are_looked_for_where_flask_migrate_would(self, shop, tmp_path):
        (tmp_path / "database").mkdir()
        env = f"{self.OURS}\ncontext.configure(include_object=ours)"
        app = self.beside(shop, tmp_path, env=env, directory="database/changes")
        assert one(app, "migrations")[0] == "ok"

    def test_that_are_not_here_may_be_elsewhere(self, shop, tmp_path, monkeypatch):
        app = self.beside(shop, tmp_path, env="context.configure(include_object=ours)")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        severity, what, fix = one(app, "migrations")
        assert severity == "warning"
        assert "no migrations/env.py here" in what
        assert "include_object" in fix

    def test_of_an_app_that_has_none_are_not_missed(self, shop, tmp_path):
        app = self.beside(shop, tmp_path)
        del app.extensions["migrate"]
        assert one(app, "migrations")[0] == "skipped"

    def test_of_another_database_are_none_of_ours(self, shop, tmp_path):
        app = shop(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'another.sqlite3'}")
        assert one(app, "migrations")[0] == "skipped"

    @pytest.mark.parametrize(
        "config",
        [
            {"SQLALCHEMY_DATABASE_URI": "sqlite:///shop.sqlite3"},
            {
                "SQLALCHEMY_DATABASE_URI": "sqlite://",
                "SQLALCHEMY_BINDS": {"mail": "sqlite:///shop.sqlite3"},
            },
        ],
    )
    def test_of_a_database_in_the_instance_folder_are_seen(self, shop, config):
        db = SQLAlchemy()
        app = shop(db, MAIL_OUTBOX_URL="sqlite:///shop.sqlite3", **config)
        Migrate(app, db)
        assert one(app, "migrations")[0] == "warning"

    @pytest.mark.parametrize("key", ["SQLALCHEMY_DATABASE_URI", "SQLALCHEMY_BINDS"])
    def test_of_an_app_without_flask_sqlalchemy_are_seen_by_its_settings(self, shop, tmp_path, key):
        place = f"sqlite:///{tmp_path / 'shop.sqlite3'}"
        there = {"mail": place} if key.endswith("BINDS") else place
        app = shop(MAIL_OUTBOX_URL=place, **{key: there})
        assert "no Flask-Migrate" in one(app, "migrations")[1]


class Asking(Resend):
    """One that asks whether its key is good, as an app's own may, and has a line then."""

    def knock(self):
        yield HttpRequest(url=f"{self.home}/domains", method="GET")


class TestTransports:
    def login(self, postfix, **config):
        return {
            "MAIL_TRANSPORT": None,
            "MAIL_SERVER": "localhost",
            "MAIL_PORT": postfix.private,
            "MAIL_USE_TLS": True,
            "MAIL_USERNAME": relay.USER,
            "MAIL_PASSWORD": relay.PASSWORD,
            "MAIL_TLS_CA_FILE": certificates.ca_file(),
            **config,
        }

    def test_that_let_us_in_are_left_before_anything_is_sent(self, shop, postfix):
        severity, what, _ = one(shop(**self.login(postfix)), "transports")
        assert severity == "ok"
        assert what.endswith("was reached, TLS verified, AUTH accepted.")
        assert relay.PASSWORD not in what
        postfix.logged(r"ehlo=2 starttls=1 auth=1 quit=1 commands=5")

    def test_that_refuse_the_password_name_the_setting(self, shop, postfix):
        app = shop(**self.login(postfix, MAIL_PASSWORD="wr0ng"))
        severity, what, fix = one(app, "transports")
        assert severity == "error"
        assert "AUTH refused: MAIL_USERNAME" in what
        assert "MAIL_USERNAME and MAIL_PASSWORD" in fix
        assert "wr0ng" not in what + fix

    def test_that_nobody_vouches_for_name_the_setting(self, shop, postfix):
        stranger = certificates.ca_file("stranger")
        severity, what, fix = one(
            shop(**self.login(postfix, MAIL_TLS_CA_FILE=stranger)), "transports"
        )
        assert severity == "error"
        assert "certificate is not to be trusted" in what
        assert "MAIL_TLS_CA_FILE" in fix

    def test_that_are_not_there_say_where_to_look(self, shop):
        app = shop(MAIL_TRANSPORT="smtp://127.0.0.1:1")
        severity, _, fix = one(app, "transports")
        assert severity == "error"
        assert "MAIL_SERVER and MAIL_PORT" in fix

    def test_are_each_looked_at(self, shop, postfix):
        app = shop(
            MAIL_TRANSPORTS={"bulk": f"smtp://127.0.0.1:{postfix.plain}", "none": "null:"},
        )
        assert [(each.severity.value, each.text) for each in found(app, "transports")] == [
            ("skipped", "default: null is not asked over a network."),
            (
                "ok",
                f"bulk: <Smtp 127.0.0.1:{postfix.plain} tls=none> was reached, without AUTH.",
            ),
            ("skipped", "none: null is not asked over a network."),
        ]

    @pytest.mark.parametrize(
        ("ca", "severity", "words"),
        [
            ("ours", "ok", "was reached; its key is only tried by sending"),
            ("stranger", "error", "certificate is not to be trusted"),
        ],
    )
    def test_that_are_apis_are_connected_to_and_asked_for_nothing(self, shop, ca, severity, words):
        with HostileHttp(tls=certificates.server_context()) as server:
            home = f"https://localhost:{server.port}"
            way = Resend("re_k3y", home, tls=Tls(ca_file=certificates.ca_file(ca)))
            told, what, _ = one(shop(MAIL_TRANSPORT=way), "transports")
            assert server.requests == []
        assert told == severity
        assert words in what
        assert "re_k3y" not in what

    def test_that_are_apis_and_away_have_advice_of_their_own(self, shop):
        severity, _, fix = one(
            shop(MAIL_TRANSPORT="resend://k@?home=http://127.0.0.1:1"), "transports"
        )
        assert severity == "error"
        assert "home=" in fix
        assert "MAIL_SERVER" not in fix

    def test_at_which_nobody_may_log_in_say_so(self, shop):
        with Hostile() as server:
            login = {"MAIL_USERNAME": "ada", "MAIL_PASSWORD": "p4ss", "MAIL_PORT": server.port}
            severity, what, fix = one(shop(MAIL_TRANSPORT=None, **login), "transports")
        assert severity == "error"
        assert "the server offers" in what
        assert "MAIL_USE_TLS" in fix

    def test_that_ask_for_something_are_left_none_the_less(self, shop, monkeypatch):
        pool = sync.Pool()  # held here, so that it is not closed by being forgotten
        monkeypatch.setattr(sync, "Pool", lambda: pool)
        with HostileHttp() as server:
            app = shop(MAIL_TRANSPORT=Asking("k3y", server.home))
            assert one(app, "transports")[0] == "ok"
            assert len(server.requests) == 1
            assert len(pool) == 0

    def test_that_refuse_a_token_name_where_its_user_may_stand(self, shop):
        refused = say(b"535 5.7.8 not you\r\n")
        with Hostile({"AUTH": refused}, auth="XOAUTH2") as server:
            way = f"smtp://ada@127.0.0.1:{server.port}?tls=insecure"
            app = shop(MAIL_TRANSPORT=way, MAIL_OAUTH2_TOKEN=lambda: "t0ken")
            severity, what, fix = one(app, "transports")
        assert (severity, "by XOAUTH2" in what) == ("error", True), what
        assert "MAIL_USERNAME or the URL" in fix

    def test_of_ses_have_credentials_of_the_machine(self, shop, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        aws.forget()
        with HostileHttp() as server:
            app = shop(MAIL_TRANSPORT=f"ses://?region=eu-west-1&home={server.home}")
            severity, what, fix = one(app, "transports")
            assert (severity, "no AWS credentials" in what) == ("error", True)
            assert "ses://ID:SECRET@" in fix
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
            severity, what, _ = one(app, "transports")
            assert severity == "ok"
            assert server.requests == []
        aws.forget()

    def test_that_are_made_by_name_are_not_looked_at_and_said_not_to_be(self, shop):
        app = shop()
        app.extensions["outbox"].hooks.load_transport = lambda _: None
        assert "@mail.load_transport" in found(app, "transports")[-1].text


class TestCommand:
    def test_shows_a_table_and_below_it_what_to_do(self, shop):
        result = doctor(shop(MAIL_BASE_URL="http://shop.test"))
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["SEVERITY", "CHECK", "FINDING"]
        assert "What to do:" in lines
        assert lines[-1] == "  base URL: Serve the app by https, and write https: into it."

    def test_says_what_to_do_for_what_was_skipped(self, shop, monkeypatch):
        monkeypatch.setitem(sys.modules, "dns", None)  # as where it is not installed
        monkeypatch.delitem(sys.modules, "flask_outbox.wire.dns", raising=False)
        result = shop().test_cli_runner().invoke(args=["outbox", "doctor"])
        assert result.stdout.splitlines()[-1] == "  dns: pip install 'flask-outbox[doctor]'"

    def test_ends_with_1_where_there_is_an_error(self, shop):
        assert doctor(shop(MAIL_TRANSPORT="smtp://127.0.0.1:1")).exit_code == 1

    def test_ends_with_2_where_it_is_called_wrongly(self, shop):
        assert doctor(shop(), "--timeout", "0").exit_code == 2

    def test_prints_json_for_scripts(self, shop):
        findings = json.loads(doctor(shop(), "--json").stdout)
        assert {frozenset(each) for each in findings} == {
            frozenset({"check", "severity", "text", "fix"})
        }

    def test_tells_no_secret(self, shop):
        url = "smtp://ada:p4ss@127.0.0.1:1?tls=insecure"
        result = doctor(shop(SECRET_KEY="k3y", MAIL_TRANSPORT=url))
        assert "p4ss" not in result.output
        assert "k3y" not in result.output

    @pytest.mark.parametrize(
        ("more", "waits"),
        [(["--no-dns"], ["outbox", "transports"]), ([], ["outbox", "transports", "dns"])],
    )
    def test_says_on_stderr_what_it_is_about_to_wait_for(self, shop, more, waits):
        asked = ["outbox", "doctor", "--json", *more]
        result = shop(MAIL_DEFAULT_SENDER=None).test_cli_runner().invoke(args=asked)
        assert result.stderr.splitlines() == [f"Looking at {name} …" for name in waits]
        json.loads(result.stdout)


class TestAnAppThatCannotBegin:
    def doctor(self, *options, **config):
        """Have Flask find the command by itself, as it does where the app cannot be made."""

        def create_app():
            app = Flask("shop")
            app.config.update(MAIL_TRANSPORT="null:", SECRET_KEY="key")
            app.config.update(config)
            Mail(app)
            return app

        group = FlaskGroup(create_app=create_app)
        return CliRunner().invoke(group, [*DOCTOR, *options])

    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"MAIL_RATE": "many"}, "MAIL_RATE"),
            ({"MAIL_TRANSPORT": "pigeon://roof"}, "MAIL_TRANSPORT"),
        ],
    )
    def test_has_a_finding_in_json(self, config, words):
        result = self.doctor("--json", **config)
        (finding,) = json.loads(result.stdout)
        assert (finding["check"], finding["severity"]) == ("settings", "error")
        assert words in finding["text"]
        assert "cannot begin" in finding["fix"]
        assert result.exit_code == 2

    def test_has_a_row_in_the_table_and_what_to_do(self):
        result = self.doctor(MAIL_RATE="many")
        lines = result.stdout.splitlines()
        assert lines[1].split()[:2] == ["error", "settings"]
        assert lines[-1].startswith("  settings: Mend what it names")
        assert result.exit_code == 2

    def test_for_another_reason_says_so_itself(self):
        group = FlaskGroup(create_app=lambda: 1 / 0)
        assert isinstance(CliRunner().invoke(group, DOCTOR).exception, ZeroDivisionError)

    def test_is_no_other_than_one_that_can(self):
        result = self.doctor("--json")
        assert json.loads(result.stdout)[0]["check"] == "settings"
        assert result.exit_code == 0

    def test_and_has_no_mail_is_told_how_to_have_it(self):
        group = FlaskGroup(create_app=lambda: Flask("plain"))
        for command in ("doctor", "stats"):
            result = CliRunner().invoke(group, ["outbox", command])
            assert result.exit_code == 2
            assert "Mail(app)" in result.stderr
