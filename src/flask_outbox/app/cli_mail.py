"""``flask outbox``: look at messages, decide about them, and forget them. See cli.py."""

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from flask import current_app

from flask_outbox.app import printing
from flask_outbox.app.cli import Finite, an_id, as_json, current, existing, ids, sending
from flask_outbox.app.commands import outbox
from flask_outbox.app.extension import Mail
from flask_outbox.app.flask_mail import Message
from flask_outbox.app.printing import moment

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.mail.lifecycle import State
    from flask_outbox.outbox.status import Entry, Status

STATES = ("queued", "sending", "accepted", "failed", "unknown", "cancelled", "expired")
PAGE = 500
DAY = 86400.0  # seconds


def _whom(status: "Status") -> str:
    first = status.recipients[0].address if status.recipients else "-"
    others = len(status.recipients) - 1
    return f"{first} +{others}" if others > 0 else first


@outbox.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=an_id, metavar="ID", help="The last id of the page before this one.")
@as_json
def list_(state: str | None, limit: int, before: str | None, as_json: bool) -> None:  # noqa: FBT001  click's
    """List messages, the newest first."""
    from flask_outbox.mail.lifecycle import State  # noqa: PLC0415  see cli.py
    from flask_outbox.outbox.status import list_messages  # noqa: PLC0415  see cli.py

    runtime = current()
    found: list[Status] = []
    if runtime.exists:
        wanted = State(state) if state else None
        found = list_messages(runtime.outbox, state=wanted, limit=limit, before=before)
    if as_json:
        printing.as_json(found)
        return
    printing.table(
        ("ID", "STATE", "CREATED", "DUE", "TRIED", "TO", "REASON"),
        [
            (
                each.id,
                each.state.value,
                moment(each.created_at),
                moment(each.due_at),
                str(each.attempts),
                _whom(each),
                each.reason,
            )
            for each in found
        ],
    )


@outbox.command()
@click.argument("id_", type=an_id, metavar="ID")
@click.option("--content", is_flag=True, help="Write the mail itself to stdout: an .eml file.")
@as_json
def show(id_: str, content: bool, as_json: bool) -> None:  # noqa: FBT001  click's
    """Show how far a message came: envelope, headers, outcomes, history; never its body.

    Of a sensitive one no headers, either: a login code may stand in the subject.
    """
    from flask_outbox.mail.errors import ConfigurationError  # noqa: PLC0415  see cli.py
    from flask_outbox.outbox import status as looking  # noqa: PLC0415  see cli.py

    runtime = existing()
    status = looking.status(runtime.outbox, id_)
    if status is None:
        raise click.ClickException("There is no such message.")
    submission = None
    try:
        submission = looking.submission(runtime.outbox, id_)
    except ConfigurationError:  # its key is not here
        if content:
            raise
    if content:
        if submission is None:
            raise click.ClickException("Its content is not kept any more.")
        sys.stdout.buffer.write(submission.content)
        return
    header = ""
    if submission is not None and not submission.sensitive:
        header = submission.content.partition(b"\r\n\r\n")[0].decode()
    history = looking.history(runtime.outbox, id_)
    if as_json:
        printing.as_json({**asdict(status), "header": header.split("\r\n"), "history": history})
    else:
        _show(status, header, history)


def _show(status: "Status", header: str, history: Iterable["Entry"]) -> None:
    lines = (
        ("id", status.id),
        ("state", f"{status.state.value} {f'({status.reason})' if status.reason else ''}".strip()),
        ("transport", f"{status.transport}, {printing.plain(status.priority)}"),
        ("created", moment(status.created_at)),
        ("due", moment(status.due_at)),
        ("expires", moment(status.expires_at)),
        ("from", status.sender or "<>"),
        ("size", f"{status.size} octets"),
    )
    for name, value in lines:
        click.echo(f"{name + ':':<11}{value}")
    click.echo()
    printing.table(
        ("RECIPIENT", "STATE", "TRIED", "DUE", "REPLY"),
        [
            (
                each.address,
                each.state.value,
                str(each.attempts),
                moment(each.due_at),
                each.reply,
            )
            for each in status.recipients
        ],
    )
    click.echo()
    for entry in history:
        who = f" {entry.recipient}" if entry.recipient else ""
        kind = printing.plain(entry.kind)
        click.echo(f"{moment(entry.at)}  {kind}{who}: {entry.text}".rstrip(": "))
    if header:
        click.echo(f"\n{header}".replace("\r\n", "\n"))


@outbox.command()
@ids
@click.option("--state", type=click.Choice(("failed", "unknown", "expired", "cancelled")))
def retry(ids: Sequence[str], state: str | None) -> None:
    """Queue messages again: those named, or all in a state.

    Only recipients that did not accept it get it. One that is unknown may be there already.
    """
    from flask_outbox.mail.errors import MessageError  # noqa: PLC0415  see cli.py
    from flask_outbox.mail.lifecycle import State  # noqa: PLC0415  see cli.py
    from flask_outbox.outbox.status import retry as again  # noqa: PLC0415  see cli.py

    if bool(ids) == bool(state):
        raise click.UsageError("Name messages, or a --state.")
    runtime = existing()
    failed = 0
    for each in list(ids) or _all_in(runtime, State(state)):
        try:
            done = again(runtime.outbox, each)
            failed += _say(each, "queued again" if done else None)
        except MessageError as error:
            failed += _say(each, None, str(error))
    if wakes := runtime.wakes:  # the embedded worker of another process looks by itself
        wakes.wake(time.time())
    sys.exit(1 if failed else 0)


def _all_in(runtime: "Runtime", state: "State") -> list[str]:
    from flask_outbox.outbox.status import list_messages  # noqa: PLC0415  see cli.py

    found: list[str] = []
    page: list[Status] = []
    while not found or len(page) == PAGE:
        before = found[-1] if found else None
        page = list_messages(runtime.outbox, state=state, limit=PAGE, before=before)
        if not page:
            break
        found += [each.id for each in page]
    return found


@outbox.command()
@ids
def cancel(ids: Sequence[str]) -> None:
    """Take back messages that have not left."""
    from flask_outbox.outbox.status import cancel as take_back  # noqa: PLC0415  see cli.py

    if not ids:
        raise click.UsageError("Name messages.")
    runtime = existing()
    failed = sum(
        _say(each, "cancelled" if take_back(runtime.outbox, each) else None) for each in ids
    )
    sys.exit(1 if failed else 0)


def _say(
    row: str, done: str | None, why: str = "there is no such message, or not in that state"
) -> int:
    click.echo(f"{row}: {done or why}", err=done is None)
    return int(done is None)


@outbox.command()
@click.option(
    "--content-after",
    type=Finite(min=0),
    show_default="MAIL_KEEP_CONTENT",
    help="Days that the content of what was accepted, was cancelled or expired is kept.",
)
@click.option(
    "--after",
    type=Finite(min=0),
    show_default="MAIL_KEEP_ROWS",
    help="Days that a message is kept once it has ended, whichever way.",
)
def prune(content_after: float | None, after: float | None) -> None:
    """Forget what nobody needs any more; workers do so by themselves now and then.

    What waits or is under way is never touched; what failed keeps its content, to be retried.
    """
    from flask_outbox.outbox.prune import prune as forget  # noqa: PLC0415  see cli.py

    runtime = existing()
    keep = runtime.settings
    gone = forget(
        runtime.outbox,
        content_after=keep.keep_content if content_after is None else content_after * DAY,
        rows_after=keep.keep_rows if after is None else after * DAY,
    )
    click.echo(f"forgot the content of {gone.contents} messages, and {gone.messages} messages")


@outbox.command()
@click.argument("address")
def erase(address: str) -> None:
    """Erase a person's address from the outbox, and the content of mail to it.

    What waits for that address alone is cancelled. What is under way, or is still to reach others,
    has it until it has ended: status 1, and the command is to be run again.
    """
    from flask_outbox.outbox.erase import erase as forget  # noqa: PLC0415  see cli.py

    gone = forget(existing().outbox, address)
    click.echo(f"{'cancelled':<12}{gone.cancelled}")
    click.echo(
        f"{'erased':<12}{gone.messages}, with {gone.contents} contents and {gone.events} lines of"
        " history"
    )
    click.echo(f"{'left':<12}{len(gone.left)}")
    for row in gone.left:
        click.echo(f"{'':<12}{row}")
    if gone.left:
        raise click.ClickException(
            "What is under way, or is still to reach others, has the address until it has ended:"
            " run this again then."
        )


@outbox.command("send-test")
@click.argument("to")
@click.option("--later", is_flag=True, help="By way of the outbox; prints the id.")
@click.option("--transport", default="default", help="With --later: by this transport.")
def send_test(to: str, later: bool, transport: str) -> None:  # noqa: FBT001  click's
    """Send a small mail to an address, and say what became of it."""
    from flask_outbox.app.sending import SendError  # noqa: PLC0415  see cli.py
    from flask_outbox.mail.errors import OutboxError  # noqa: PLC0415  see cli.py

    if transport != "default" and not later:
        raise click.UsageError("--transport is for --later: what is sent now goes by the default.")
    sending()
    message = Message(
        "A test of Flask-Outbox",
        [to],
        f"{current_app.name} can send mail: you are reading it.\n",
        auto_submitted="auto-generated",
    )
    try:
        if later:
            click.echo(Mail().send_later(message, transport=transport))
            return
        receipt = Mail().send(message)
    except (SendError, OutboxError) as error:
        raise click.ClickException(str(error)) from None
    for recipient, outcome in receipt.items():
        click.echo(f"{recipient}: {type(outcome).__name__.lower()}, {getattr(outcome, 'text', '')}")
