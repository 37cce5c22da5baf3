"""Write the reference pages that say what the code says: settings, commands, states.

``--check`` writes nothing, and ends with status 1 where a page is not what it would be.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from flask_outbox.app.cli import outbox
from flask_outbox.app.keys import DKIM, FLASK_MAILS, MESSAGES, OUTBOX, WAYS_OUT
from flask_outbox.mail.lifecycle import TRANSITIONS, State

PAGES = Path(__file__).parents[1] / "docs" / "reference"
GROUPS = {
    "Flask-Mail's": FLASK_MAILS,
    "The ways out": WAYS_OUT,
    "The messages": MESSAGES,
    "DKIM": DKIM,
    "The outbox and its workers": OUTBOX,
}
NOTE = "<!-- Written by tools/write_reference.py from the code. -->\n"


def settings() -> Iterator[str]:
    """List every MAIL_* key."""
    yield "# Settings"
    yield NOTE
    yield (
        "Read once, by `init_app`. A value that cannot work stops the app with an error that names"
        " the key; a `MAIL_*` key that is not listed here is a warning with the nearest that is."
        " Values from the environment are parsed: `False` is false, lists are comma-separated."
        " A key marked *secret* may also be given as `<KEY>_FILE`, the name of a file whose content"
        " it is.\n"
    )
    for title, keys in GROUPS.items():
        yield f"## {title}\n\n| key | default | meaning |\n|---|---|---|"
        for key, how in keys.items():
            default = f"`{how.default}`" if isinstance(how.default, (str, int, float)) else ""
            secret = " *Secret.*" if how.secret else ""
            yield f"| `{key}` | {default} | {how.means}{secret} |"
        yield ""


def commands() -> Iterator[str]:
    """Print the help of each command."""
    yield "# Commands"
    yield NOTE
    context = click.Context(outbox, info_name="flask outbox")
    yield f"```text\n{outbox.get_help(context)}\n```\n"
    for name, command in sorted(outbox.commands.items()):
        below = click.Context(command, info_name=name, parent=context)
        yield f"## {name}\n\n```text\n{command.get_help(below)}\n```\n"


def states() -> Iterator[str]:
    """Print the lifecycle, as a picture and as words."""
    yield "# States"
    yield NOTE
    yield (
        "The states of a message and of each of its recipients. A message has the state of the"
        " recipient that most wants to be looked at.\n"
    )
    yield "| from | to |\n|---|---|"
    for before, after in TRANSITIONS.items():
        names = ", ".join(f"`{state.value}`" for state in State if state in after)
        yield f"| `{before.value}` | {names or '(final)'} |"
    yield ""
    yield "What was not accepted goes back to `queued` only by hand: `flask outbox retry`.\n"


def main() -> int:
    """Write or compare."""
    stale: list[str] = []
    for make, name in ((settings, "settings.md"), (commands, "cli.md"), (states, "states.md")):
        page = PAGES / name
        text = "\n".join(make())
        if "--check" in sys.argv[1:]:
            if not page.exists() or page.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            page.write_text(text, encoding="utf-8")
    if stale:
        print(f"stale: {', '.join(stale)}; run python tools/write_reference.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
