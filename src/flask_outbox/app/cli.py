"""``flask outbox``: run its workers, and see how they do; cli_mail.py has what is about one mail.

Exit status 0: done. 1: there is no such message, or it cannot be done with it, or with the outbox.
2: called wrongly.
Loaded for every ``--help``, too, so what a command needs is imported when it runs.
"""

import math
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import click
from flask import current_app

from flask_outbox.app import printing
from flask_outbox.app.commands import outbox
from flask_outbox.app.flask_mail import runtime_of
from flask_outbox.app.printing import moment

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.outbox.stats import Stats
    from flask_outbox.outbox.workers import Badge, Worker


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


def current() -> "Runtime":
    """Give the runtime of the app at hand."""
    try:
        return runtime_of(cast("Any", current_app)._get_current_object())  # noqa: SLF001  the app
    except RuntimeError as error:  # these commands are there for every app
        raise click.UsageError(str(error)) from None


def existing() -> "Runtime":
    """Give it, if there is an outbox."""
    runtime = current()
    if not runtime.exists:
        raise click.ClickException(f"There is no outbox yet: {runtime.place} does not exist.")
    return runtime


def sending() -> "Runtime":
    """Give it, if it may send."""
    runtime = current()
    if runtime.suppressed:
        raise click.ClickException("Sending is suppressed: by MAIL_SUPPRESS_SEND, or TESTING.")
    return runtime


@outbox.command()
def upgrade() -> None:
    """Make the outbox, or bring its tables up to date."""
    runtime = current()
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
    runtime = sending()
    runtime.check()
    runtime.outbox.open()
    runtime.outbox.close()
    if handed is not None:
        child.be_worker(runtime.plan, handed)
    sys.exit(process.run(runtime.plan, processes=processes, command=anew.command()))


@outbox.command()
@click.option("--seconds", type=Finite(min=0, min_open=True), help="Begin nothing after so long.")
def drain(seconds: float | None) -> None:
    """Send what is due now, and end; status 1 if something due is left.

    Status 1, too, if sensitive mail was held back since the key that it is encrypted with is not
    here; that is looked at again later.

    Told to stop (SIGTERM, Ctrl-C) it finishes what it has begun; told so twice it leaves at once.
    """
    from flask_outbox.outbox.stats import stats as count  # noqa: PLC0415  see above
    from flask_outbox.worker.foreground import Drain  # noqa: PLC0415  see above

    runtime = sending()
    if not runtime.exists:
        click.echo("Tried 0 messages.")
        return
    work = Drain(runtime.plan())
    tried = work.run(seconds)
    click.echo(f"Tried {tried} message{'' if tried == 1 else 's'}.")
    if work.told:
        return
    if work.held_back:
        raise click.ClickException(
            "Sensitive mail was held back: its key is not here. `flask outbox list` has the reason."
        )
    figures = count(runtime.outbox)
    if figures.oldest_due is not None and figures.oldest_due <= figures.now:
        raise click.ClickException("Something that is due could not be sent yet.")


@outbox.command()
@as_json
def stats(as_json: bool) -> None:  # noqa: FBT001  click's
    """Count what is not accepted yet, by state; name paused routes, slowed domains and workers.

    Of a worker it says what it runs with another of than this app: version, schema, settings, key.
    It says so of the latest drains, too, for a day after they ended.
    """
    from flask_outbox.outbox.stats import stats as count  # noqa: PLC0415  see above

    runtime = current()
    if not runtime.exists:
        if as_json:
            nothing = dict.fromkeys(("routes", "slowed", "workers", "ended"), ())
            printing.as_json({"counts": {}, "oldest_due": None, **nothing})
        else:
            click.echo("Nothing is open.")
        return
    figures = count(runtime.outbox)
    badge = runtime.badge()
    figures = replace(figures, ended=tuple(each for each in figures.ended if each.differs(badge)))
    if as_json:
        seen = {
            name: [{**asdict(each), "differs": each.differs(badge)} for each in several]
            for name, several in (("workers", figures.workers), ("ended", figures.ended))
        }
        printing.as_json({**asdict(figures), **seen})
    else:
        _print_stats(figures, badge)


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
    for slow in figures.slowed:
        until = "" if slow.until is None else f", nothing until {moment(slow.until)}"
        click.echo(f"{'slowed':<12}{slow.name}: {slow.words}{until}")
    for each in figures.workers:
        lost = "" if each.lost_at is None else ": it stopped beating"
        click.echo(f"{'worker':<12}{each.name}, last heard of {moment(each.beat_at)}{lost}")
        _print_differences(each, badge)
    for each in figures.ended:
        click.echo(f"{'drain':<12}{each.name}, ended {moment(each.beat_at)}")
        _print_differences(each, badge)


def _print_differences(worker: "Worker", badge: "Badge") -> None:
    for words in printing.differences(worker, badge):
        click.echo(f"{'':<12}{words}")
