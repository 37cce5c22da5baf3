"""The default outbox: a file that makes itself, is nobody else's, and says what is wrong."""

import logging
import os
import shutil
import sqlite3
import stat
import threading
import time
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlalchemy import event, select

from flask_outbox.mail.errors import ConfigurationError, OutboxUnavailable
from flask_outbox.mail.outcome import Accepted, Refused
from flask_outbox.outbox.claim import claim, release
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.erase import erase
from flask_outbox.outbox.sqlite_driver import READING
from flask_outbox.outbox.tables import content
from outbox_mail import ADA, KEYRING, a_submission, look, one, put, say, take
from outbox_process import other_process

NOBODY = 65534


@pytest.fixture
def file(tmp_path):
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(file):
    made = Outbox(f"sqlite:///{file}", busy=0.2, keyring=KEYRING)
    yield made
    made.close()


def pragma(outbox, name):
    with outbox.read() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


def test_making_an_outbox_touches_nothing(outbox, file):
    assert not file.exists()


def test_the_first_use_makes_the_file_and_a_log_line_that_names_it(outbox, file, caplog):
    caplog.set_level(logging.INFO, "flask_outbox.outbox")
    put(outbox)
    assert file.exists()
    (line,) = [each for each in caplog.records if each.name == "flask_outbox.outbox"]
    assert str(file) in line.getMessage()
    assert line.levelno == logging.INFO
    caplog.clear()
    Outbox(f"sqlite:///{file}").open().dispose()
    assert caplog.records == []


def test_the_file_and_those_beside_it_are_for_this_user_only(outbox, file):
    before = os.umask(0)
    try:
        put(outbox)
        modes = {
            each.name: stat.S_IMODE(each.stat().st_mode) for each in sorted(file.parent.iterdir())
        }
    finally:
        os.umask(before)
    assert modes == {
        "outbox.sqlite3": 0o600,
        "outbox.sqlite3-shm": 0o600,
        "outbox.sqlite3-wal": 0o600,
    }


def test_what_was_acknowledged_survives_a_power_cut(outbox):
    assert pragma(outbox, "journal_mode") == "wal"
    assert pragma(outbox, "synchronous") == 2
    assert pragma(outbox, "foreign_keys") == 1


def test_only_a_claim_does_not_wait_for_the_disk(outbox):
    levels = []

    def look_at(connection):
        if not connection.get_execution_options().keys() & READING.keys():
            levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    put(outbox)
    event.listen(outbox.open(), "commit", look_at)
    claimed = claim(outbox, transports=["default"], limit=1, worker="w")
    assert levels == [1]
    release(outbox, claimed)
    say(outbox, one(outbox), Accepted("250 ok"))
    put(outbox)
    assert levels == [1, 2, 1, 2, 2, 2]  # claim, release, claim, start, record, put


def test_an_outbox_waits_for_others_longer_than_half_a_minute(tmp_path):
    outbox = Outbox(f"sqlite:///{tmp_path}/patient.sqlite3")
    assert pragma(outbox, "busy_timeout") >= 30_000
    outbox.close()


def test_an_instance_folder_that_does_not_exist_is_made(tmp_path):
    outbox = Outbox(f"sqlite:///{tmp_path}/instance/outbox.sqlite3")
    put(outbox)
    assert (tmp_path / "instance" / "outbox.sqlite3").exists()
    outbox.close()


def test_a_path_may_have_any_characters(tmp_path):
    folder = tmp_path / "what? 100% #1 é"
    outbox = Outbox(folder / "outbox.sqlite3")
    put(outbox)
    assert (folder / "outbox.sqlite3").exists()
    outbox.close()


def test_a_folder_in_nowhere_is_an_error_with_the_fix(tmp_path):
    outbox = Outbox(f"sqlite:///{tmp_path}/no/such/outbox.sqlite3")
    with pytest.raises(OutboxUnavailable, match=r"no/such.*does not exist.*MAIL_OUTBOX_URL"):
        put(outbox)


def test_a_file_where_a_folder_should_be_is_an_error_with_the_fix(tmp_path):
    (tmp_path / "file").touch()
    outbox = Outbox(f"sqlite:///{tmp_path}/file/outbox.sqlite3")
    with pytest.raises(OutboxUnavailable, match="MAIL_OUTBOX_URL"):
        put(outbox)


def as_nobody(folder, do):
    """Do it in a child, as a user whom modes bind (they do not bind root); give what it says."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(say, str(do()).encode())
        finally:
            os._exit(0)
    os.close(say)
    with open(hear, "rb") as said:  # noqa: PTH123  a pipe has no path
        heard = said.read().decode()
    os.waitpid(child, 0)
    return heard


@pytest.fixture
def open_folder():
    """A folder that another user can reach, unlike pytest's own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
        folder.chmod(0o755)


@pytest.mark.parametrize("used", [False, True])
def test_a_read_only_folder_is_an_error_with_the_fix(open_folder, used):
    file = open_folder / "outbox.sqlite3"

    def do():
        if used:
            first = Outbox(f"sqlite:///{file}")
            first.open()
            first.close()
            file.chmod(0o400)
        open_folder.chmod(0o555)
        with pytest.raises(OutboxUnavailable) as caught:
            take(Outbox(f"sqlite:///{file}"))
        return caught.value

    said = as_nobody(open_folder, do)
    assert str(file) in said
    assert "writable" in said


def test_a_folder_that_may_not_be_looked_into_is_an_error_with_the_fix(open_folder):
    def do():
        open_folder.chmod(0o000)
        with pytest.raises(OutboxUnavailable) as caught:
            take(Outbox(open_folder / "outbox.sqlite3"))
        return caught.value

    assert "MAIL_OUTBOX_URL" in as_nobody(open_folder, do)


def test_what_is_not_a_database_is_an_error_that_names_it(outbox, file):
    file.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(OutboxUnavailable, match="not an SQLite database"):
        put(outbox)


@pytest.mark.parametrize("url", ["nonsense", "oracle://host/db", "sqlite:///file:x?uri=true"])
def test_a_url_that_cannot_work_names_the_setting(url):
    with pytest.raises(ConfigurationError, match="MAIL_OUTBOX_URL"):
        Outbox(url)


def test_an_error_never_quotes_a_mail(outbox):
    canary = "c4n4ry-b0dy"
    outbox.random, outbox._clock = bytes, lambda: 1.0
    outbox.serial = repeat(7)  # so that the second id is that of the first
    mail = a_submission(sender=canary, content=canary.encode())
    put(outbox, mail)
    with pytest.raises(sqlite3.IntegrityError) as caught:
        put(outbox, mail)
    assert canary not in str(caught.value)
    assert canary not in repr(caught.value)


def on_disk(file):
    return b"".join(each.read_bytes() for each in file.parent.glob(f"{file.name}*"))


def test_sensitive_content_is_never_on_the_disk_and_leaves_it_encrypted_when_accepted(outbox, file):
    canary = b"c4n4ry-t0ken" * 1000
    id_ = put(outbox, a_submission(content=canary, sensitive=True))
    with outbox.read() as connection:
        token = bytes(connection.execute(select(content.c.content)).scalar_one())
    assert token[-40:] in on_disk(file)
    say(outbox, one(outbox), Accepted("250"))
    with outbox.begin():
        pass
    assert b"c4n4ry-t0ken" not in on_disk(file)
    outbox.close()  # writes the log into the file
    assert token[-40:] not in on_disk(file)
    assert look(outbox, id_).size == len(canary)


def test_a_closed_outbox_opens_again(outbox):
    id_ = put(outbox)
    outbox.close()
    outbox.close()
    assert look(outbox, id_).id == id_


def removed(file):
    for each in file.parent.glob(f"{file.name}*"):
        each.unlink()


def replaced(file):
    removed(file)
    other = Outbox(f"sqlite:///{file}")
    put(other)
    other.close()


def folder_removed(file):
    shutil.rmtree(file.parent)


def folder_renamed(file):
    file.parent.rename(file.parent.with_name("old"))


@pytest.mark.parametrize("what", [removed, replaced, folder_removed, folder_renamed])
def test_what_is_acknowledged_is_in_the_file_that_stands_there(tmp_path, caplog, what):
    """Whoever writes on into one that is gone says of mail that it is safe, and nobody sees it."""
    file = tmp_path / "instance" / "outbox.sqlite3"
    outbox, other = Outbox(f"sqlite:///{file}"), Outbox(f"sqlite:///{file}")
    put(outbox)
    what(file)
    ids = [put(outbox), put(outbox)]
    assert [look(other, each).id for each in ids] == ids
    assert {each.id for each in take(outbox)} >= set(ids)
    (line,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "was removed or replaced" in line.getMessage()
    outbox.close()
    other.close()


def test_many_processes_may_use_a_new_outbox_at_once(file):
    script = """
wait()
with outbox.begin() as connection:
    enqueue(connection, outbox, mail)
say("done")
"""
    from contextlib import ExitStack  # noqa: PLC0415

    with ExitStack() as stack:
        others = [stack.enter_context(other_process(file, script)) for _ in range(6)]
        for each in others:
            each.go_on()
        assert [each.hear() for each in others] == ["done"] * 6
        assert [each.end() for each in others] == [0] * 6
    outbox = Outbox(f"sqlite:///{file}")
    assert len(take(outbox)) == 6
    outbox.close()


def test_a_new_outbox_is_waited_for_while_another_process_makes_it(file):
    """Its journal cannot be set then, and SQLite says so at once, whatever its timeout."""
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.2, other.rollback).start()
    outbox = Outbox(f"sqlite:///{file}")
    assert put(outbox)
    outbox.close()
    other.close()


def test_many_threads_may_use_a_new_outbox_at_once(outbox):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(8) as threads:
        ids = [each.result() for each in [threads.submit(put, outbox) for _ in range(8)]]
    assert len(set(ids)) == 8


def test_the_drivers_own_transactions_are_off(outbox):
    with outbox.begin() as connection:
        driver = connection.connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        assert driver.isolation_level is None
        assert driver.in_transaction


def test_a_write_transaction_is_immediate_and_a_read_is_not(outbox, file):
    outbox.open()
    second = Outbox(f"sqlite:///{file}", busy=0.05)
    with outbox.begin(), pytest.raises(OutboxUnavailable, match="lock"), second.begin():
        pass
    with outbox.read(), second.begin():
        pass
    with outbox.begin(), second.read():
        pass
    second.close()


def test_the_time_is_the_databases_and_not_that_of_the_program(outbox, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    put(outbox)
    with outbox.read() as connection:
        (made,) = connection.exec_driver_sql("SELECT created_at FROM outbox_message").scalars()
    assert made > 0.0


def test_an_erased_address_is_nowhere_on_the_disk(outbox, file):
    address = b"ada@example.org"
    for outcome in (Accepted(f"250 for {ADA}"), Refused(f"550 {ADA}?")):
        put(outbox, a_submission(content=b"To: " + address + b"\r\n\r\nhello\r\n"))
        say(outbox, one(outbox), outcome)
    put(outbox)
    assert address in on_disk(file)
    assert erase(outbox, ADA).left == []
    assert address not in on_disk(file)
