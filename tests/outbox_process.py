"""Another process that uses the same outbox, told what to do line by line."""

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PRELUDE = """
import sys
from flask_outbox.outbox.claim import claim, reclaim, start
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.enqueue import Schedule, enqueue
from flask_outbox.mail.submission import Submission

outbox = Outbox(sys.argv[1])
mail = Submission(sender="a@example.com", recipients=("b@example.org",), content=b"x" * 5000,
                  message_id="<1@example.com>", date=0.0)

def say(what):
    print(what, flush=True)

def wait():
    sys.stdin.readline()

"""


class Other:
    """The other process."""

    def __init__(self, url: str, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + script, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self) -> str:
        """Wait for one line; an empty one means that it ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def other_process(place: Path | str, script: str) -> Generator[Other]:
    """Run it on an outbox, by its URL or by an SQLite file."""
    other = Other(str(place) if "://" in str(place) else f"sqlite:///{place}", script)
    try:
        yield other
    finally:
        other.process.kill()
        other.process.communicate(timeout=30)
