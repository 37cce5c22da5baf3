"""The reference says what the code says."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_reference_pages_are_what_the_code_would_write_now():
    command = [sys.executable, "tools/write_reference.py", "--check"]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
