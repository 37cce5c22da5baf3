"""``flask outbox``: look at the outbox, work on it, and run its workers.

Exit status 0: done. 1: there is no such message, or it cannot be done with it, or with the outbox.
2: called wrongly.
Loaded for every ``--help``, too, so what a command needs is imported when it runs.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click
from flask import current_app

from flask_outbox.app import printing
from flask_outbox.app.extension import Mail, outbox
from flask_outbox.app.flask_mail import Message, runtime_of
from flask_outbox.app.printing import moment

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.mail.lifecycle import State
    from flask_outbox.outbox.stats import Stats
    from flask_outbox.outbox.status import Entry, Status
    from flask_outbox.outbox.workers import Badge

STATES = ("queued", "sending", "accepted", "failed", "unknown", "cancelled", "expired")
PAGE = 500
DAY = 86400.0  # seconds


class Finite(click.FloatRange):
    """A number within bounds; by itself, click lets nan through any bounds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it, or say which option is wrong."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def an_id(value: str) -> str:
    """Write bytes that are no text out: then it can be looked for, and is the id of nothing."""
    return value.encode(errors="backslashreplace").decode()


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
ids = click.argument("ids", nargs=-1, type=an_id, metavar="ID...")


def _runtime() -> "Runtime":
    return runtime_of(cast("Any", current_app)._get_current_object())  # noqa: SLF001  the app


def _existing() -> "Runtime":
    runtime = _runtime()
    if not runtime.exists:
        raise click.ClickException(f"There is no outbox yet: {runtime.place} does not exist.")
    return runtime


def _sending() -> "Runtime":
    runtime = _runtime()
    if runtime.suppressed:
        raise click.ClickException("Sending is suppressed: by MAIL_SUPPRESS_SEND, or TESTING.")
    return runtime


def _whom(status: "Status") -> str:
    first = status.recipients[0].address if status.recipients else "-"
    others = len(status.recipients) - 1
    return f"{first} +{others}" if others > 0 else first


@outbox.command()
def upgrade() -> None:
    """Make the outbox, or bring its tables up to date."""
    runtime = _runtime()
    runtime.outbox.upgrade()
    click.echo(f"The outbox is up to date: {runtime.place}")


@outbox.command()
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 64))
def worker(processes: int) -> None:
    """Send what is due, until SIGTERM; a second one leaves at once.

    SIGHUP replaces the processes one by one by such as read the app's configuration anew.

    With MAIL_WORKER=process nothing else sends; otherwise the app's own worker does so, too.
    """
    from flask_outbox.worker import anew, child, process  # noqa: PLC0415  see above

    handed = anew.handed_over()
    runtime = _sending()
    runtime.check()
    runtime.outbox.open()
    runtime.outbox.close()
    if handed is not None:
        child.be_worker(runtime.plan, handed)
    sys.exit(process.run(runtime.plan, processes=processes, command=anew.command()))


@outbox.command()
@click.option("--seconds", type=Finite(min=0, min_open=True), help="Stop after so long.")
def drain(seconds: float | None) -> None:
    """Send what is due now, and end; status 1 if something due is left."""
    from flask_outbox.outbox.stats import stats as count  # noqa: PLC0415  see above
    from flask_outbox.worker.loop import drain as work  # noqa: PLC0415  see above

    runtime = _sending()
    if not runtime.exists:
        click.echo("Tried 0 messages.")
        return
    tried = work(runtime.plan(), seconds=seconds)
    click.echo(f"Tried {tried} message{'' if tried == 1 else 's'}.")
    figures = count(runtime.outbox)
    if figures.oldest_due is not None and figures.oldest_due <= figures.now:
        raise click.ClickException("Something that is due could not be sent yet.")


@outbox.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--before", type=an_id, metavar="ID", help="The last id of the page before this one.")
@as_json
def list_(state: str | None, limit: int, before: str | None, as_json: bool) -> None:  # noqa: FBT001  click's
    """List messages, the newest first."""
    from flask_outbox.mail.lifecycle import State  # noqa: PLC0415  see above
    from flask_outbox.outbox.status import list_messages  # noqa: PLC0415  see above

    runtime = _runtime()
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
    """Show how far a message came: envelope, headers, outcomes, history; never its body."""
    from flask_outbox.outbox import status as looking  # noqa: PLC0415  see above

    runtime = _existing()
    status = looking.status(runtime.outbox, id_)
    if status is None:
        raise click.ClickException("There is no such message.")
    submission = looking.submission(runtime.outbox, id_)
    if content:
        if submission is None:
            raise click.ClickException("Its content is not kept any more.")
        sys.stdout.buffer.write(submission.content)
        return
    header = submission.content.partition(b"\r\n\r\n")[0].decode() if submission else ""
    history = looking.history(runtime.outbox, id_)
    if as_json:
        printing.as_json({**asdict(status), "header": header.split("\r\n"), "history": history})
    else:
        _show(status, header, history)


def _show(status: "Status", header: str, history: Iterable["Entry"]) -> None:
    lines = (
        ("id", status.id),
        ("state", f"{status.state.value} {f'({status.reason})' if status.reason else ''}".strip()),
        ("transport", f"{status.transport}, {status.priority.value}"),
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
        click.echo(f"{moment(entry.at)}  {entry.kind.value}{who}: {entry.text}".rstrip(": "))
    if header:
        click.echo(f"\n{header}".replace("\r\n", "\n"))


@outbox.command()
@ids
@click.option("--state", type=click.Choice(("failed", "unknown", "expired", "cancelled")))
def retry(ids: Sequence[str], state: str | None) -> None:
    """Queue messages again: those named, or all in a state.

    Only recipients that did not accept it get it. One that is unknown may be there already.
    """
    from flask_outbox.mail.errors import MessageError  # noqa: PLC0415  see above
    from flask_outbox.mail.lifecycle import State  # noqa: PLC0415  see above
    from flask_outbox.outbox.status import retry as again  # noqa: PLC0415  see above

    if bool(ids) == bool(state):
        raise click.UsageError("Name messages, or a --state.")
    runtime = _existing()
    failed = 0
    for each in list(ids) or _all_in(runtime, State(state)):
        try:
            done = again(runtime.outbox, each)
            failed += _say(each, "queued again" if done else None)
        except MessageError as error:
            failed += _say(each, None, str(error))
    sys.exit(1 if failed else 0)


def _all_in(runtime: "Runtime", state: "State") -> list[str]:
    from flask_outbox.outbox.status import list_messages  # noqa: PLC0415  see above

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
    from flask_outbox.outbox.status import cancel as take_back  # noqa: PLC0415  see above

    if not ids:
        raise click.UsageError("Name messages.")
    runtime = _existing()
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
@as_json
def stats(as_json: bool) -> None:  # noqa: FBT001  click's
    """Count what is not accepted yet, by state; name paused routes and workers.

    Of a worker it says what it runs with another of than this app: version, schema, settings, key.
    """
    from flask_outbox.outbox.stats import stats as count  # noqa: PLC0415  see above

    runtime = _runtime()
    if not runtime.exists:
        if as_json:
            printing.as_json({"counts": {}, "oldest_due": None, "routes": [], "workers": []})
        else:
            click.echo("Nothing is open.")
        return
    figures = count(runtime.outbox)
    if as_json:
        badge = runtime.badge()
        workers = [{**asdict(each), "differs": each.differs(badge)} for each in figures.workers]
        printing.as_json({**asdict(figures), "workers": workers})
    else:
        _print_stats(figures, runtime.badge())


def _print_stats(figures: "Stats", badge: "Badge") -> None:
    if not figures.counts:
        click.echo("Nothing is open.")
    for state, number in figures.counts.items():
        click.echo(f"{state.value:<12}{number}")
    if figures.oldest_due is not None:
        late = max(0.0, figures.now - figures.oldest_due)
        click.echo(f"{'oldest due':<12}{moment(figures.oldest_due)}, {late:.0f} s late")
    for route in figures.routes:
        click.echo(f"{'paused':<12}{route.name} until {moment(route.until)}: {route.reason}")
    for each in figures.workers:
        lost = "" if each.lost_at is None else ": it stopped beating"
        click.echo(f"{'worker':<12}{each.name}, last heard of {moment(each.beat_at)}{lost}")
        for words in printing.differences(each, badge):
            click.echo(f"{'':<12}{words}")


@outbox.command()
@click.option(
    "--content-after",
    type=Finite(min=0),
    default=30.0,
    show_default=True,
    help="Days that the content of an accepted message is kept.",
)
@click.option(
    "--after",
    type=Finite(min=0),
    default=365.0,
    show_default=True,
    help="Days that a message is kept once it has ended, whichever way.",
)
def prune(content_after: float, after: float) -> None:
    """Forget what nobody needs any more; to be run from cron.

    What waits or is under way is never touched; what failed keeps its content, to be retried.
    """
    from flask_outbox.outbox.prune import prune as forget  # noqa: PLC0415  see above

    runtime = _existing()
    gone = forget(runtime.outbox, content_after=content_after * DAY, rows_after=after * DAY)
    click.echo(f"forgot the content of {gone.contents} messages, and {gone.messages} messages")


@outbox.command("send-test")
@click.argument("to")
@click.option("--later", is_flag=True, help="By way of the outbox; prints the id.")
@click.option("--transport", default="default", help="With --later: by this transport.")
def send_test(to: str, later: bool, transport: str) -> None:  # noqa: FBT001  click's
    """Send a small mail to an address, and say what became of it."""
    from flask_outbox.app.sending import SendError  # noqa: PLC0415  see above
    from flask_outbox.mail.errors import OutboxError  # noqa: PLC0415  see above

    if transport != "default" and not later:
        raise click.UsageError("--transport is for --later: what is sent now goes by the default.")
    _sending()
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
