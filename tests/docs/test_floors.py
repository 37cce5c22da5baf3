"""The floors hold: what breaks one of them is told by import-linter or ruff, each by its name."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

NETWORK = (
    *("asyncio", "ftplib", "http.client", "imaplib", "poplib", "select", "selectors", "smtplib"),
    *("socket", "socketserver", "ssl", "urllib.request", "xmlrpc.client"),
)
PROCESS = ("concurrent.futures", "multiprocessing", "signal", "subprocess", "threading", "time")
SQL, FLASK = ("sqlalchemy", "alembic"), ("flask", "werkzeug", "click", "blinker", "jinja2")
RANDOM = ("random", "secrets", "uuid")
FORBIDDEN = {
    "app": (*NETWORK, *SQL),
    "worker": (*NETWORK, *SQL, *FLASK),
    "outbox": (*NETWORK, *FLASK, *RANDOM),
    "wire": (*SQL, *FLASK, *RANDOM),
    "transports": (*NETWORK, *PROCESS, *SQL, *RANDOM, "sqlite3", "flask"),
    "mail": (*NETWORK, *PROCESS, *SQL, *RANDOM, "sqlite3", "flask"),
}
UPWARDS = {
    "worker": ("app",),
    "outbox": ("worker", "transports", "wire"),
    "transports": ("worker", "outbox", "wire"),
    "wire": ("app", "outbox", "transports"),
    "mail": ("transports",),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A copy of the package in which every floor does all that it may not."""
    top = tmp_path_factory.mktemp("broken")
    shutil.copytree(TOP / "src", top / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "pyproject.toml", top)
    package = top / "src" / "flask_outbox"
    for floor, names in FORBIDDEN.items():
        lines = [f"import {name}" for name in names]
        lines += [f"import flask_outbox.{name}" for name in UPWARDS.get(floor, ())]
        with (package / floor / "__init__.py").open("a") as file:
            file.write("\n".join([*lines, ""]))
    (package / "undrawn").mkdir()
    (package / "undrawn" / "__init__.py").touch()
    return top


def run(top, *command):
    environment = {"PYTHONPATH": str(top / "src"), "PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=top,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def told(broken):
    return run(broken, "lint-imports", "--no-cache")


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_what_a_floor_may_not_import_is_told(told, floor):
    for name in FORBIDDEN[floor]:
        outside = name.partition(".")[0]
        assert f"flask_outbox.{floor} is not allowed to import {outside}: " in told


@pytest.mark.parametrize("floor", UPWARDS)
def test_an_import_upwards_or_to_a_stranger_is_told(told, floor):
    for other in UPWARDS[floor]:
        assert f"flask_outbox.{floor} is not allowed to import flask_outbox.{other}: " in told


def test_a_folder_that_is_not_drawn_is_told(told):
    assert "undrawn" in told


BANNED = {
    "time.time": "import time\nnow = time.time()\n",
    "datetime.datetime.now": "from datetime import datetime\nnow = datetime.now()\n",
    "random.random": "from random import random\n",
    "urllib.request": "from urllib import request\n",
    "os.fork": "import os\nos.fork()\n",
    "os.execv": "from os import execv\n",
    "os.execvpe": "import os\nos.execvpe()\n",
    "os.posix_spawn": "import os as o\no.posix_spawn()\n",
    "os.spawnl": "import os\nos.spawnl()\n",
    "os.system": "import os\nos.system()\n",
    "os.popen": "import os\nos.popen()\n",
}


@pytest.mark.parametrize("floor", ["mail", "transports", "wire", "outbox"])
def test_an_attribute_that_a_floor_may_not_use_is_told(broken, floor):
    for at, lines in enumerate(BANNED.values()):
        (broken / "src" / "flask_outbox" / floor / f"banned{at}.py").write_text(lines)
    told = run(
        broken, "ruff", "check", "--no-cache", "--select=TID251", f"src/flask_outbox/{floor}"
    )
    for name in BANNED:
        assert f"`{name}` is banned" in told
