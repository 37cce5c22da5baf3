"""What SpamAssassin makes of a mail, where it is installed.

Its program is started for one mail, which takes about a second: with local tests only, so that
nothing is looked up, without what it has learned from somebody's mailbox, and without a daemon
(docs/decisions/0501-spamassassin-is-started-for-one-mail.md).
"""

import os
import re
import shutil
import subprocess

from flask_outbox.mail.lint import Finding, Severity

LARGEST = 500 * 1024  # octets; its own client passes no larger ones on, either
SECONDS = 60.0
_SETTINGS = (
    "use_bayes 0",
    "report_safe 0",
    "fold_headers 0",
    "clear_headers",
    "add_header all Lint _SCORE_ _REQD_ _TESTSSCORES(,)_",
)
# It takes out any field of this name that a mail comes with.
_ANSWER = re.compile(rb"^X-Spam-Lint: (-?[0-9.]+) (-?[0-9.]+) ([\w=,.-]+)\r?$", re.MULTILINE)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_MOST = 5  # tests that are named
_WORTH_NAMING = 0.1  # points


def score(content: bytes, *, seconds: float = SECONDS) -> list[Finding]:
    """Say how many points it has, and for what; nothing where there is no SpamAssassin."""
    program = shutil.which("spamassassin")
    if program is None:
        return []
    if len(content) > LARGEST:
        text = f"Larger than {LARGEST // 1024} KB, it was not given to SpamAssassin."
        return [Finding("spam", Severity.INFO, text)]
    settings = [f"--cf={each}" for each in _SETTINGS]
    try:
        done = subprocess.run(  # noqa: S603  a fixed command, and the mail on its stdin
            [program, "--local", "--nocreate-prefs", "--prefspath=/dev/null", *settings],
            input=content,
            capture_output=True,
            timeout=seconds,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return [_failed(f"did not answer within {seconds:.0f} s")]
    except OSError as error:
        return [_failed(f"could not be started ({error.strerror})")]
    answer = _ANSWER.search(_END_OF_HEAD.split(done.stdout, maxsplit=1)[0])
    if done.returncode or answer is None:
        return [_failed("gave no score")]
    return [_finding(*(each.decode() for each in answer.groups()))]


def _failed(how: str) -> Finding:
    text = f"SpamAssassin {how}; see what `spamassassin --lint` says."
    return Finding("spam", Severity.WARNING, text)


def _finding(points: str, limit: str, tests: str) -> Finding:
    pairs = [each.partition("=") for each in tests.split(",")]
    named = {name: float(worth or 0) for name, _, worth in pairs}
    worst = sorted(named, key=lambda name: named[name], reverse=True)[:_MOST]
    reasons = [f"{name} ({named[name]:g})" for name in worst if named[name] >= _WORTH_NAMING]
    text = f"SpamAssassin gives it {float(points) + 0.0:g} points, and calls {limit} spam"
    if reasons:
        text += f": {', '.join(reasons)}"
    if float(points) < float(limit):
        return Finding("spam", Severity.INFO, f"{text}.")
    return Finding("spam", Severity.ERROR, f"{text}; write it without these.")
