"""``flask outbox doctor``: what is wrong with the set-up, and what to do about it. See cli.py."""

import sys
from time import monotonic, time

import click

from flask_outbox.app import printing
from flask_outbox.app.cli import Finite, as_json, current
from flask_outbox.app.extension import outbox

LONG = 2.0  # seconds after which a person hears what is waited for


@outbox.command()
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=Finite(min=0, min_open=True, max=600),
    help="Seconds for each thing that is waited for.",
)
@as_json
def doctor(timeout: float, as_json: bool) -> None:  # noqa: FBT001  click's
    """Say what is wrong with the set-up, and what to do about it. Nothing is sent or changed.

    Settings, keys, the outbox's schema, durability and clock, and each transport: reached, TLS
    verified and AUTH accepted.

    Status 0: nothing worse than warnings. 1: errors. 2: it could not run.
    """
    from flask_outbox.app.doctor import examine  # noqa: PLC0415  see cli.py
    from flask_outbox.app.patient import Patient  # noqa: PLC0415  the same
    from flask_outbox.mail.diagnosis import Grade  # noqa: PLC0415  the same

    begun = monotonic()

    def before(name: str) -> None:
        if monotonic() - begun > LONG:
            click.echo(f"Looking at {name} …", err=True)

    patient = Patient(runtime=current(), now=time(), seconds=timeout)
    found = list(examine(patient, before))
    if as_json:
        printing.as_json(found)
    else:
        rows = [(each.severity.value, each.check, each.text) for each in found]
        printing.table(("SEVERITY", "CHECK", "FINDING"), rows)
        fixes = [each for each in found if each.fix and each.severity is not Grade.SKIPPED]
        if fixes:
            click.echo("\nWhat to do:")
        for each in fixes:
            click.echo(f"  {each.check}: {each.fix}")
    sys.exit(int(any(each.severity is Grade.ERROR for each in found)))
