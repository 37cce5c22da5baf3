"""``flask outbox doctor``: what is wrong with the set-up, and what to do about it. See cli.py."""

import sys
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

import click
from flask.cli import ScriptInfo

from flask_outbox.app import printing
from flask_outbox.app.cli import Finite, as_json, current
from flask_outbox.app.commands import outbox
from flask_outbox.app.patient import Patient, a_domain, an_address
from flask_outbox.mail.errors import ConfigurationError, MessageError

if TYPE_CHECKING:
    from flask_outbox.mail.diagnosis import Diagnosis

WAITS = frozenset({"outbox", "transports", "dns"})  # checks that a person may have to wait for
ERRORS, COULD_NOT_RUN = 1, 2  # exit status

Values = tuple[str, ...]


def _each(read: Callable[[str], str]) -> Callable[[click.Context, click.Parameter, Values], Values]:
    """Read each value of an option."""

    def callback(_: click.Context, __: click.Parameter, values: Values) -> Values:
        try:
            return tuple(map(read, values))
        except (MessageError, ValueError) as error:
            raise click.BadParameter(str(error)) from None

    return callback


@outbox.command(with_appcontext=False)  # it is told of an app that cannot be made, too
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=Finite(min=0, min_open=True, max=600),
    help="Seconds for each thing that is waited for.",
)
@click.option("--dns/--no-dns", default=True, help="Look up what domains publish.")
@click.option(
    "--domain",
    "domains",
    multiple=True,
    callback=_each(a_domain),
    metavar="DOMAIN",
    help="A domain of From, besides that of MAIL_DEFAULT_SENDER; may be repeated.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    callback=_each(an_address),
    metavar="ADDRESS",
    help="An IP address that mail leaves from, for PTR; may be repeated.",
)
@click.option(
    "--nameserver",
    "nameservers",
    multiple=True,
    callback=_each(an_address),
    metavar="ADDRESS",
    help="Ask this name server; may be repeated. Default: this machine's.",
)
@click.option("--port", default=53, show_default=True, type=click.IntRange(1, 65535), help="Its.")
@as_json
def doctor(as_json: bool, timeout: float, **asked: Any) -> None:  # noqa: FBT001  click's
    """Say what is wrong with the set-up, and what to do about it. Nothing is sent or changed.

    Settings, keys, the outbox's schema, durability and clock, and each transport: reached, TLS
    verified and AUTH accepted. Of each domain in From: MX, SPF with its look-ups counted, DKIM
    against our keys, DMARC and alignment; of each address its PTR.

    Status 0: nothing worse than warnings. 1: errors. 2: it could not run.
    """
    from flask_outbox.mail.diagnosis import Diagnosis, Grade  # noqa: PLC0415  see cli.py

    try:
        app = click.get_current_context().ensure_object(ScriptInfo).load_app()
    except ConfigurationError as error:
        fix = "Mend what it names: the app cannot begin, and nothing else was looked at."
        found, status = [Diagnosis("settings", Grade.ERROR, str(error), fix)], COULD_NOT_RUN
    else:
        with app.app_context():
            found = _examined(timeout, asked)
        status = ERRORS if any(each.severity is Grade.ERROR for each in found) else 0
    if as_json:
        printing.as_json(found)
    else:
        rows = [(each.severity.value, each.check, each.text) for each in found]
        printing.table(("SEVERITY", "CHECK", "FINDING"), rows)
        fixes = [each for each in found if each.fix]
        if fixes:
            click.echo("\nWhat to do:")
        for each in fixes:
            click.echo(f"  {each.check}: {each.fix}")
    sys.exit(status)


def _examined(timeout: float, asked: dict[str, Any]) -> "list[Diagnosis]":
    from flask_outbox.app.doctor import examine  # noqa: PLC0415  see cli.py

    waits = WAITS if asked["dns"] else WAITS - {"dns"}

    def before(name: str) -> None:
        if name in waits:
            click.echo(f"Looking at {name} …", err=True)

    patient = Patient(runtime=current(), now=time, seconds=timeout, **asked)
    return list(examine(patient, before))
