"""The example: what `make demo` runs, and what it wants to know before it starts."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SIGNUP = TOP / "examples" / "signup"

# Each of these alone would end the round, or leave something behind, if the demo heeded it.
OWN = {
    "FLASK_SECRET_KEY": "own",
    "FLASK_SQLALCHEMY_DATABASE_URI": "sqlite:////does/not/exist/signup.sqlite3",
    "MAIL_SERVER": "mail.example.invalid",
    "MAIL_PORT": "9",
    "MAIL_USE_TLS": "true",
    "MAIL_USERNAME": "own",
    "MAIL_PASSWORD": "own",
    "MAIL_BASE_URL": "https://signup.example.com",
    "MAIL_SUPPRESS_SEND": "true",
}


@pytest.fixture
def signup(tmp_path):
    """A copy of the example, in which a user may have put a file of their own."""
    not_of_it = shutil.ignore_patterns(".env", "instance", "__pycache__")
    return Path(shutil.copytree(SIGNUP, tmp_path / "signup", ignore=not_of_it))


def one_round(folder, **changes):
    done = subprocess.run(
        [sys.executable, "demo.py", "--once"],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **changes},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"answer back in \d+ ms", done.stdout)
    assert "account verified" in done.stdout
    assert "✗" not in done.stdout


def test_one_round_of_the_demo_ends_with_an_account_that_is_verified():
    one_round(SIGNUP)


def test_the_demo_heeds_no_env_file_of_its_user_and_leaves_nothing_beside_it(signup):
    own = "".join(f"{key}={value}\n" for key, value in OWN.items())
    (signup / ".env").write_text((signup / ".env.example").read_text() + own)
    before = sorted(signup.rglob("*"))
    one_round(signup)
    assert sorted(signup.rglob("*")) == before


def test_the_demo_heeds_no_settings_that_the_shell_exports(signup):
    one_round(signup, **OWN)


@pytest.mark.parametrize("missing", ["MAIL_BASE_URL", "FLASK_SECRET_KEY"])
@pytest.mark.parametrize("line", ["", "{missing}=\n"], ids=["left out", "empty"])
def test_without_what_it_cannot_do_without_the_app_stops_at_its_start_and_names_it(
    signup, missing, line
):
    given = {key: OWN[key] for key in ("MAIL_BASE_URL", "FLASK_SECRET_KEY") if key != missing}
    lines = [f"{key}={value}\n" for key, value in given.items()]
    (signup / ".env").write_text("".join([*lines, line.format(missing=missing)]))
    others = {k: v for k, v in os.environ.items() if not k.startswith(("FLASK_", "MAIL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app.py", "run", "--port", "0"],
        cwd=signup,
        env=others,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert missing in done.stderr
    assert "Traceback" not in done.stderr
    assert "Running on" not in done.stdout + done.stderr
    assert not (signup / "instance").exists()
