"""flask outbox: each command, its exit status, and what it never prints."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import click
import pytest
from flask import Flask
from sqlalchemy import update

from flask_outbox import Mail, Message
from flask_outbox.app.cli import outbox
from flask_outbox.outbox.tables import REVISION, event, message, worker
from flask_outbox.outbox.workers import end, heartbeat
from flask_outbox.version import __version__
from hostile import Hostile, say

WORKED = """
import os
from flask import Flask
from flask_outbox import Mail, Message
app = Flask("shop", instance_path=os.path.abspath("instance"))
app.config.update(MAIL_PORT=os.environ["RELAY"], MAIL_DEFAULT_SENDER="shop@example.com")
mail = Mail(app)
with app.app_context():
    mail.send_later(Message("hi", ["ada@example.org"], "text"), key="one")
"""
COMMANDS = [
    *("upgrade", "worker", "drain", "list", "show", "retry", "cancel", "stats", "prune"),
    *("erase", "send-test", "dkim-keygen"),
]

RUNNER = """
import sys, shop
print(shop.app.test_cli_runner().invoke(args=sys.argv[1:], catch_exceptions=False).output)
"""
STARTS = {
    "the flask program": ["-m", "flask", "--app", "shop.py"],
    "the app's test runner": ["-c", RUNNER],
}


def note(**fields):
    return Message(
        **{"subject": "hi", "recipients": ["ada@example.org"], "body": "canary-body", **fields}
    )


class Shop:
    """An app with an outbox, and a way to call its commands."""

    def __init__(self, folder, port):
        self.app = Flask("shop", instance_path=str(folder))
        self.app.config.update(
            MAIL_PORT=port,
            MAIL_DEFAULT_SENDER="shop@example.com",
            MAIL_WORKER="process",
            MAIL_USERNAME="canary-user",
            MAIL_PASSWORD="canary-password",
            SECRET_KEY="canary-key",
        )
        self.mail = Mail(self.app)
        self.printed = ""

    def later(self, **terms):
        with self.app.app_context():
            return self.mail.send_later(note(**terms.pop("fields", {})), **terms)

    def __call__(self, *arguments, status=0):
        result = self.app.test_cli_runner().invoke(outbox, args=arguments)
        self.printed += result.output
        assert result.exit_code == status, (result.output, result.exception)
        return result.output


@pytest.fixture
def server():
    with Hostile({"RCPT": [say(b"550 5.1.1 no such user")]}, auth="PLAIN") as server:
        yield server


@pytest.fixture
def shop(tmp_path, server):
    shop = Shop(tmp_path / "instance", server.port)
    yield shop
    shop.app.extensions["outbox"].close()
    assert "canary" not in shop.printed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(shop, command):
    assert re.search(r"Usage: .*outbox " + command, shop(command, "--help"))


def test_the_group_lists_them_all(shop):
    text = shop("--help")
    assert all(re.search(rf"^  {command} ", text, re.MULTILINE) for command in COMMANDS)


def test_looking_makes_no_outbox(shop, tmp_path):
    assert shop("list").startswith("ID ")
    assert json.loads(shop("list", "--json")) == []
    assert shop("stats") == "Nothing is open.\n"
    assert json.loads(shop("stats", "--json"))["counts"] == {}
    assert "no outbox yet" in shop("show", "0" * 32, status=1)
    assert shop("drain") == "Tried 0 messages.\n"
    assert not (tmp_path / "instance").exists()


def test_upgrade_makes_it_and_may_be_repeated(shop, tmp_path):
    file = str(tmp_path / "instance" / "outbox.sqlite3")
    assert file in shop("upgrade")
    assert file in shop("upgrade")


def test_list_shows_the_newest_first_by_state_and_page(shop):
    first = shop.later()
    second = shop.later(delay=60, fields={"cc": ["b@example.org"]})
    lines = shop("list").splitlines()
    assert [line.split()[0] for line in lines] == ["ID", second, first]
    assert lines[1].endswith("ada@example.org +1")
    assert [each["id"] for each in json.loads(shop("list", "--json", "--limit", "1"))] == [second]
    assert [each["id"] for each in json.loads(shop("list", "--json", "--before", second))] == [
        first
    ]
    assert json.loads(shop("list", "--json", "--state", "failed")) == []
    shop("list", "--state", "lost", status=2)


def test_drain_sends_what_is_due_and_tells_of_what_is_left(shop, server):
    shop.later()
    good = shop.later()
    shop.later(delay=3600)
    assert shop("drain") == "Tried 2 messages.\n"
    assert len(server.accepted) == 1
    states = {each["id"]: each["state"] for each in json.loads(shop("list", "--json"))}
    assert sorted(states.values()) == ["accepted", "failed", "queued"]
    assert states[good] in {"accepted", "failed"}


def test_drain_that_leaves_something_due_has_status_1(shop, server):
    server._script["EHLO"] = say(b"421 not now")
    shop.later()
    assert "could not be sent yet" in shop("drain", "--seconds", "0.3", status=1)


def test_drain_that_holds_back_mail_whose_key_is_gone_has_status_1(shop, server):
    shop.later(fields={"sensitive": True})
    shop.app.secret_key = "another"
    said = shop("drain", status=1)
    assert "Tried 0 messages." in said
    assert "its key is not here" in said
    assert shop("drain") == "Tried 0 messages.\n"  # it is looked at again later


def test_show_has_envelope_headers_outcomes_and_history_but_no_body(shop):
    row = shop.later(fields={"subject": "Grüße", "bcc": ["bcc@example.org"]})
    shop("drain")
    text = shop("show", row)
    for part in (
        "shop@example.com",
        "bcc@example.org",
        "550 5.1.1",
        "Subject: =?utf-8?",
        "started",
    ):
        assert part in text
    told = json.loads(shop("show", row, "--json"))
    assert told["id"] == row
    assert told["recipients"][0]["state"] == "failed"
    assert any(line.startswith("To: ada@") for line in told["header"])
    assert told["history"][0]["kind"] == "started"
    assert "no such message" in shop("show", "0" * 32, status=1)


def test_words_of_a_newer_version_are_shown_as_they_are(shop):
    row = shop.later()
    shop("drain")
    with shop.app.extensions["outbox"].outbox.begin() as connection:
        connection.execute(update(event).values(kind="opened"))
        connection.execute(update(message).values(priority="lazy"))
    assert row in shop("list")
    shown = shop("show", row)
    assert re.search(r"^transport: +default, lazy$", shown, re.MULTILINE)
    assert "Z  opened ada@example.org: " in shown
    told = json.loads(shop("show", row, "--json"))
    assert (told["priority"], told["history"][-1]["kind"]) == ("lazy", "opened")


def test_show_content_writes_the_mail(shop):
    row = shop.later()
    result = shop.app.test_cli_runner().invoke(outbox, args=["show", row, "--content"])
    assert result.exit_code == 0
    assert result.stdout_bytes.endswith(b"\r\n\r\ncanary-body\r\n")


def test_cancel_and_retry_tell_for_each_what_was_done(shop, server):
    one, two = shop.later(delay=60), shop.later(delay=60)
    assert shop("cancel", one, two) == f"{one}: cancelled\n{two}: cancelled\n"
    assert "no such message" in shop("cancel", one, "0" * 32, status=1)
    assert shop("retry", one) == f"{one}: queued again\n"
    shop("retry", one, status=1)
    assert shop("retry", "--state", "cancelled") == f"{two}: queued again\n"
    assert shop("retry", "--state", "cancelled") == ""
    shop("retry", status=2)
    shop("retry", one, "--state", "failed", status=2)
    shop("cancel", status=2)


def test_a_dead_letter_is_listed_shown_and_retried_by_hand(shop, server):
    row = shop.later()
    shop("drain")
    (line,) = shop("list", "--state", "failed").splitlines()[1:]
    assert line.startswith(row)
    assert line.endswith("550 5.1.1 no such user")
    assert "failed ada@example.org: 550 5.1.1" in shop("show", row)
    assert shop("retry", "--state", "failed") == f"{row}: queued again\n"
    assert shop("list", "--state", "failed").splitlines()[1:] == []
    shop("drain")
    assert len(server.accepted) == 1
    assert json.loads(shop("show", row, "--json"))["state"] == "accepted"


def test_prune_forgets_what_has_ended_and_nothing_that_waits(shop):
    waits, ended = shop.later(), shop.later()
    shop("cancel", ended)
    assert "0 messages, and 0 messages" in shop("prune")
    assert "and 1 messages" in shop("prune", "--after", "0")
    shop("show", ended, status=1)
    assert json.loads(shop("show", waits, "--json"))["state"] == "queued"


def test_prune_keeps_as_long_as_the_settings_say_where_it_is_not_told_otherwise(shop, server):
    shop.later()
    shop("cancel", shop.later())
    runtime = shop.app.extensions["outbox"]
    assert "content of 0 messages, and 0 messages" in shop("prune")
    runtime.settings = replace(runtime.settings, keep_content=1e-9, keep_rows=None)
    assert "content of 1 messages, and 0 messages" in shop("prune")
    runtime.settings = replace(runtime.settings, keep_rows=1e-9)
    assert "content of 0 messages, and 1 messages" in shop("prune")


def test_erase_forgets_an_address_and_says_what_it_did(shop, server):
    shop.later(fields={"recipients": ["Ada@example.org"]})
    shop("drain")
    waits = shop.later(delay=60)
    shop.later(delay=60, fields={"recipients": ["bob@example.org"]})
    assert re.fullmatch(
        r"cancelled +1\nerased +2, with 2 contents and 2 lines of history\nleft +0\n",
        shop("erase", "ada@EXAMPLE.org"),
    )
    assert json.loads(shop("show", waits, "--json"))["state"] == "cancelled"
    printed = shop("list") + shop("list", "--json")
    assert "ada@" not in printed.lower()  # an id may have these letters
    assert "bob@example.org" in printed
    assert re.match(r"cancelled +0\nerased +0,", shop("erase", "ada@example.org"))


def test_erase_ends_with_status_1_while_something_is_left(shop):
    row = shop.later(delay=60, fields={"cc": ["bob@example.org"]})
    for cancelled in (1, 0):
        output = shop("erase", "ada@example.org", status=1)
        assert re.match(rf"cancelled +{cancelled}\nerased +0,.*\nleft +1\n +{row}\n", output)
        assert "run this again" in output
    assert "address is not an e-mail address" in shop("erase", "nobody", status=1)


def test_of_a_sensitive_mail_nothing_that_is_in_it_is_shown_but_by_content(shop):
    row = shop.later(fields={"sensitive": True, "subject": "4711 is your code", "body": "hello"})
    for output in (shop("show", row), shop("show", row, "--json")):
        assert "ada@example.org" in output
        assert "4711" not in output
    assert "Subject: 4711" in shop("show", row, "--content")


def test_one_whose_key_is_gone_is_shown_as_far_as_it_can_be(shop):
    row = shop.later(fields={"sensitive": True, "body": "hello"})
    shop.app.secret_key = "another"
    assert "queued" in shop("show", row)
    assert "MAIL_OUTBOX_KEYS" in shop("show", row, "--content", status=1)
    shop.app.config["SECRET_KEY_FALLBACKS"] = ["canary-key"]
    assert "Subject: hi" in shop("show", row, "--content")


def test_stats_count_by_state(shop):
    shop.later()
    shop.later(delay=3600)
    assert re.search(r"^queued +2$", shop("stats"), re.MULTILINE)
    told = json.loads(shop("stats", "--json"))
    assert told["counts"] == {"queued": 2}
    assert told["oldest_due"] <= told["now"]


def test_stats_name_a_paused_route(shop, server):
    server._script["AUTH"] = say(b"535 5.7.8 no")
    shop.later()
    shop("drain", "--seconds", "0.3", status=1)
    assert re.search(r"^paused +default until .*535", shop("stats"), re.MULTILINE)


def beat(shop, name, **other):
    runtime = shop.app.extensions["outbox"]
    heartbeat(runtime.outbox, name, host="web2", pid=7, badge=replace(runtime.badge(), **other))


def test_stats_name_workers_that_run_with_something_else(shop):
    beat(shop, "same")
    assert "this app" not in shop("stats")
    beat(shop, "other", version="0.0.1", schema="0001", settings="another")
    beat(shop, "stranger", secret="another", settings="another")
    lines = shop("stats").splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("worker      other, last heard"))
    assert [line.strip() for line in lines[at + 1 : at + 4]] == [
        f"runs version 0.0.1; this app has {__version__}",
        f"was written for schema 0001; this app for {REVISION}",
        "has other settings than this app: restart it, or send its parent SIGHUP",
    ]
    at = next(i for i, line in enumerate(lines) if line.startswith("worker      stranger, "))
    assert [line.strip() for line in lines[at + 1 :]] == [
        "has another SECRET_KEY than this app: give every host that sends the same",
    ]
    told = {each["name"]: each for each in json.loads(shop("stats", "--json"))["workers"]}
    assert {name: each["differs"] for name, each in told.items()} == {
        "same": [],
        "other": ["version", "schema", "settings"],
        "stranger": ["secret"],
    }


def test_stats_name_drains_that_ran_with_something_else_and_no_other(shop):
    for name, other in (("same", {}), ("other", {"settings": "another"})):
        beat(shop, name, **other)
        end(shop.app.extensions["outbox"].outbox, name)
    kind, differs = shop("stats").splitlines()[1:]
    assert re.match(r"^drain +other, ended \S+ \S+Z$", kind)
    assert "has other settings than this app" in differs
    told = json.loads(shop("stats", "--json"))
    assert told["workers"] == []
    assert [(each["name"], each["differs"]) for each in told["ended"]] == [("other", ["settings"])]


def test_stats_say_that_a_worker_stopped_beating(shop):
    beat(shop, "gone")
    with shop.app.extensions["outbox"].outbox.begin() as connection:
        connection.execute(update(worker).values(beat_at=worker.c.beat_at - 61))
    beat(shop, "lives")
    text = shop("stats")
    assert re.search(r"^worker +gone, .*: it stopped beating$", text, re.MULTILINE)
    assert re.search(r"^worker +lives, .*Z$", text, re.MULTILINE)


def test_send_test_says_what_became_of_it(shop, server):
    assert "550 5.1.1" in shop("send-test", "ada@example.org", status=1)
    assert "ada@example.org: accepted, 250" in shop("send-test", "ada@example.org")
    assert "not an e-mail address" in shop("send-test", "nobody", status=1)
    row = shop("send-test", "ada@example.org", "--later").strip()
    assert json.loads(shop("show", row, "--json"))["state"] == "queued"
    assert "MAIL_TRANSPORTS" in shop(
        "send-test", "ada@example.org", "--later", "--transport", "x", status=1
    )
    assert "--later" in shop("send-test", "ada@example.org", "--transport", "x", status=2)


@pytest.mark.parametrize("arguments", [["worker"], ["drain"], ["send-test", "ada@example.org"]])
def test_where_sending_is_suppressed_nothing_is_sent(shop, server, arguments):
    shop.app.testing = True
    assert "suppressed" in shop(*arguments, status=1)
    assert server.connections == 0


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(
    ("arguments", "output"), [(["stats"], r"^Nothing is open\.$"), (["--help"], "^  stats ")]
)
def test_an_app_has_the_commands_by_itself(tmp_path, start, arguments, output):
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\nfrom flask_outbox import Mail\napp = Flask('shop')\nMail(app)\n"
    )
    done = subprocess.run(
        [sys.executable, *start, "outbox", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(output, done.stdout, re.MULTILINE)


def test_worker_sends_until_it_is_told_to_stop(tmp_path):
    (tmp_path / "shop.py").write_text(WORKED)
    with Hostile() as server:
        with subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "shop.py", "outbox", "worker"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "RELAY": str(server.port)},
        ) as process:
            server.wait_until(lambda it: it.accepted)
            process.terminate()
            assert process.wait(15) == 0, process.stderr.read()
        assert len(server.accepted) == 1


def test_an_apps_test_runner_finds_the_commands(shop):
    row = shop.later()
    result = shop.app.test_cli_runner().invoke(args=["outbox", "list"])
    assert (result.exit_code, result.output.splitlines()[1].split()[0]) == (0, row)
    result = shop.app.test_cli_runner().invoke(args=["outbox", "lost"])
    assert (result.exit_code, "No such command 'lost'" in result.output) == (2, True)


def test_an_apps_own_commands_of_that_name_stay_its_own():
    app = Flask("shop")
    app.cli.command("outbox")(lambda: click.echo("the app's own"))
    Mail(app)
    Mail(app)
    assert app.test_cli_runner().invoke(args=["outbox"]).output == "the app's own\n"


def test_an_app_without_mail_has_no_such_commands():
    result = Flask("bare").test_cli_runner().invoke(args=["outbox", "list"])
    assert result.exit_code == 2
    assert "No such command 'outbox'" in result.output


@pytest.mark.parametrize(
    "command",
    [
        *("upgrade", "worker", "drain", "list", "stats", "prune", "show 0", "retry 0", "cancel 0"),
        "erase a@example.org",
        "retry --state=failed",
        "send-test a@example.org --later",
    ],
)
def test_over_an_outbox_that_cannot_be_used_each_says_in_one_line_what_to_do(
    shop, tmp_path, command
):
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "outbox.sqlite3").write_bytes(b"no database" * 1000)
    output = shop(*command.split(), status=1)
    assert re.fullmatch(r"Error: The outbox .* could not be used: .*\n", output)


def test_an_id_that_is_no_text_is_the_id_of_no_message(shop):
    shop.later()
    odd = os.fsdecode(b"a\xff")
    for command in ("show", "retry", "cancel"):
        output = shop(command, odd, status=1)
        assert "there is no such message" in output.lower()
        assert len(output.splitlines()) == 1
    assert shop("list", "--before", odd).startswith("ID ")


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("drain", "--seconds", ["-1", "0", "nan", "inf", "-inf", "1e999", "soon"]),
        ("list", "--limit", ["-1", "0", "nan", "inf", "2.5", "10001"]),
        ("prune", "--after", ["-1", "nan", "inf", "-inf", "old"]),
        ("prune", "--content-after", ["-1", "nan", "inf", "-inf", "old"]),
        ("worker", "--processes", ["-1", "0", "nan", "inf", "1.5", "65"]),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_the_name_of_its_option(
    shop, server, command, option, values
):
    row = shop.later()
    for value in values:
        assert f"Invalid value for '{option}'" in shop(command, f"{option}={value}", status=2)
    assert server.connections == 0
    assert json.loads(shop("show", row, "--json"))["state"] == "queued"
