"""How a worker process begins that reads the configuration anew."""

import json
import os
import subprocess
import sys

import pytest

from flask_outbox.worker import anew

TELL = """
import json, os
from flask_outbox.worker import anew
os.environ["ADDED"] = os.environ["KEPT"] = "later"
del os.environ["REMOVED"]
print(json.dumps([anew.command(), dict(anew.environment())]))
"""


def test_it_has_the_command_line_and_the_environment_that_the_command_was_given():
    given = {**os.environ, "KEPT": "as it was = so", "REMOVED": "by the app", "EMPTY": ""}
    options = ["-X", "faulthandler", "-c", TELL, "an argument"]
    told = subprocess.run(
        [sys.executable, *options], env=given, capture_output=True, text=True, check=True
    )
    command, environment = json.loads(told.stdout)
    assert command == [sys.executable, *options]
    assert environment == given


@pytest.mark.parametrize("garbled", [b"worker: idle\0\0\0\0", b"A=1\0title of it\0", b"=\0", b""])
def test_where_the_environment_was_overwritten_the_one_of_now_will_do(
    garbled, tmp_path, monkeypatch
):
    (tmp_path / "environ").write_bytes(garbled)
    monkeypatch.setattr(anew, "BORN_WITH", tmp_path / "environ")
    assert anew.environment() == os.environ


def test_and_where_it_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(anew, "BORN_WITH", tmp_path / "nothing")
    assert anew.environment() == os.environ


def test_the_folder_is_known_by_the_name_it_was_entered_by(tmp_path, monkeypatch):
    (tmp_path / "release-1").mkdir()
    (tmp_path / "current").symlink_to("release-1")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("PWD", str(tmp_path / "current"))
    assert anew.folder() == str(tmp_path / "current")
    for wrong in (str(tmp_path), "", "nowhere"):
        monkeypatch.setenv("PWD", wrong)
        assert anew.folder() == str(tmp_path / "release-1")


@pytest.fixture
def pipe():
    pipe = os.pipe()
    yield pipe
    for each in pipe:
        os.close(each)


def hand_over(monkeypatch, *words):
    monkeypatch.setenv(anew.HANDED, ":".join(map(str, words)))
    handed = anew.handed_over()
    assert anew.HANDED not in os.environ
    return handed


def test_what_is_handed_over_is_taken_once_and_passed_on_to_nobody(monkeypatch, pipe):
    for each in pipe:
        os.set_inheritable(each, True)  # noqa: FBT003  the only way to say it
    assert hand_over(monkeypatch, *pipe) == anew.Handed(*pipe)
    assert not any(map(os.get_inheritable, pipe))
    assert anew.handed_over() is None
    assert hand_over(monkeypatch, pipe[0]) == anew.Handed(pipe[0], None)


def test_what_is_no_pipe_was_meant_for_another_process(monkeypatch, pipe, tmp_path):
    with (tmp_path / "file").open("w") as file:
        closed = file.fileno()
        assert hand_over(monkeypatch, closed, pipe[1]) is None
    assert hand_over(monkeypatch, closed, pipe[1]) is None


def test_that_it_works_is_told_by_one_byte(pipe):
    reading, writing = pipe
    anew.Handed(0, os.dup(writing)).tell_ready()
    assert os.read(reading, 9) == b"1"
    anew.Handed(0).tell_ready()
