"""What `make demo` runs: sign up, wait for nothing, get the mail, be verified."""

import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_one_round_of_the_demo_ends_with_an_account_that_is_verified():
    command = [sys.executable, "examples/signup/demo.py", "--once"]
    done = subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"answer back in \d+ ms", done.stdout)
    assert "account verified" in done.stdout
    assert "✗" not in done.stdout
