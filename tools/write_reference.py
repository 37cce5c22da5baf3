"""Write the reference pages that say what the code says: settings, commands, states, providers.

``--check`` writes nothing, and ends with status 1 where a page is not what it would be.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from flask_outbox.app.cli import outbox
from flask_outbox.app.keys import DKIM, FLASK_MAILS, MESSAGES, OUTBOX, RATES, WAYS_OUT
from flask_outbox.mail.lifecycle import TRANSITIONS, State
from flask_outbox.transports.base import Carries, HttpTransport, Words
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.url import transport_from_url

PAGES = Path(__file__).parents[1] / "docs" / "reference"
GROUPS = {
    "Flask-Mail's": FLASK_MAILS,
    "The ways out": WAYS_OUT,
    "The messages": MESSAGES,
    "DKIM": DKIM,
    "The outbox and its workers": OUTBOX,
    "How fast": RATES,
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


def _yes(*, carried: bool) -> str:
    return "yes" if carried else "-"


def _words(words: Words | None) -> str:
    if words is None:
        return "stay in the outbox"
    anything = Words(most=0)
    told = [f"{words.most} at most"]
    if words.names != anything.names:
        told.append(f"`{words.names}`")
    if words.values != anything.values:
        told.append(f"values `{words.values}`")
    return ", ".join(told)


def _most(many: int | None) -> str:
    return "no limit of its own" if many is None else str(many)


def _names(names: tuple[str, ...] | None) -> str:
    if names is None:
        return "whatever there is"
    return ", ".join(f"`{name}`" for name in names) or "-"


def _headers(reserved: tuple[str, ...]) -> str:
    return f"all but {_names(reserved)}" if reserved else "yes"


FEATURES: dict[str, Callable[[Carries], str]] = {
    "the mail as it is sealed": lambda c: "yes" if c.raw else "its parts",
    "headers of your own": lambda c: _headers(c.reserved),
    "an attachment that is empty": lambda c: _yes(carried=c.empty),
    "`invitation`, `alts` besides text and HTML, headers of an attachment": lambda c: _yes(
        carried=c.raw
    ),
    "a return path of its own": lambda c: _yes(carried=c.envelope or c.return_path),
    "`mail_options`, `rcpt_options`": lambda c: _yes(carried=c.envelope),
    "a DKIM signature of ours": lambda c: "yes" if c.raw and c.signature else "no",
    "`dsn`": lambda c: _yes(carried=c.dsn),
    "addresses with a local part that is not ASCII": lambda c: _yes(carried=c.utf8),
    "a mail without a subject": lambda c: _yes(carried=c.untitled),
    "`tags`": lambda c: _words(c.tags),
    "`metadata`": lambda c: _words(c.metadata),
    "a tag named like one of the metadata": lambda c: _yes(carried=not c.one_space),
    "`track_opens`": lambda c: _yes(carried=c.opens),
    "`track_clicks`": lambda c: _yes(carried=c.clicks),
    "`provider={…}`": lambda c: _names(c.provider),
    "of these, a template in place of a text": lambda c: _names(c.template),
    "attachments besides a template": lambda c: _yes(carried=bool(c.template) and c.template_files),
    "a repeat of what is in doubt is one copy, while its key is remembered": lambda c: (
        "yes" if c.idempotency else "no"
    ),
    "recipients of one message": lambda c: _most(c.recipients),
    "octets of a sealed message": lambda c: _most(c.size),
}


def providers() -> Iterator[str]:
    """Print what each way out can carry, from its own declaration."""
    yield "# What a provider carries"
    yield NOTE
    yield (
        "What stands here as `-`, or beyond what stands here, raises `UnsupportedFeature` in"
        " `mail.send` and `mail.send_later`, and nothing is written down; `no` refuses nothing."
        " Cc, Bcc, reply-to, attachments and inline images all of them carry. How to use them:"
        " [Send by a provider's API](../how-to/providers.md).\n"
    )
    transport_from_url("null:")  # whoever can do that has imported each provider
    kinds = sorted(HttpTransport.__subclasses__(), key=lambda kind: kind.name)
    columns = {"smtp": Smtp("relay.example.com").carries}
    columns |= {kind.name: kind.carries for kind in kinds}
    yield f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    for feature, tell in FEATURES.items():
        cells = [tell(carries).replace("|", "\\|") for carries in columns.values()]
        yield f"| {feature} | {' | '.join(cells)} |"
    yield ""


PAGES_BY_NAME = {
    "settings.md": settings,
    "cli.md": commands,
    "states.md": states,
    "providers.md": providers,
}


def main() -> int:
    """Write or compare."""
    stale: list[str] = []
    for name, make in PAGES_BY_NAME.items():
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
