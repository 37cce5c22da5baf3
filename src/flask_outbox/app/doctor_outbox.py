"""The doctor's look at the outbox: schema, durability, clock; and at the app's migrations."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from flask_outbox.app.joined import URI
from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade

APART = 5.0  # seconds between two clocks before a person should know


def outbox(patient: Patient) -> Iterator[Diagnosis]:
    """Read its schema, its settings of durability and its clock."""
    runtime = patient.runtime
    if not runtime.exists:
        yield Diagnosis(
            "outbox",
            Grade.SKIPPED,
            f"There is no outbox yet: {runtime.place} is made with the first mail.",
        )
        return
    from flask_outbox.outbox.examine import examine  # noqa: PLC0415  brings SQLAlchemy

    found = examine(runtime.outbox)
    if found.current:
        yield Diagnosis("schema", Grade.OK, f"{runtime.place} is at schema {found.revision}.")
    elif found.upgrade:
        yield Diagnosis(
            "schema",
            Grade.ERROR,
            f"{runtime.place} is not at the schema of this version:"
            f" {found.revision or 'it has none'}.",
            f"Run `{found.upgrade}`.",
        )
    else:
        yield Diagnosis(
            "schema", Grade.OK, f"{runtime.place} is brought up to date by its next use."
        )
    for weakness in found.weaknesses:
        what, _, fix = weakness.rstrip(".").rpartition(". ")
        yield Diagnosis("durability", Grade.WARNING, f"{what}.", f"{fix}.")
    if not found.weaknesses:
        yield Diagnosis("durability", Grade.OK, "What is acknowledged is on the disk.")
    yield _clock(found.now - patient.now)


def _clock(ahead: float) -> Diagnosis:
    if abs(ahead) <= APART:
        return Diagnosis("clock", Grade.OK, "The database and this machine agree on the time.")
    how = "ahead of" if ahead > 0 else "behind"
    return Diagnosis(
        "clock",
        Grade.WARNING,
        f"The database's clock is {abs(ahead):.0f} s {how} this machine's: mail for a given time"
        " goes out by the database's, and its Date is this machine's.",
        "Have both set by NTP.",
    )


def migrations(patient: Patient) -> Iterator[Diagnosis]:
    """See that the app's own migrations leave our tables alone."""
    from flask_outbox.outbox.examine import is_beside  # noqa: PLC0415  brings SQLAlchemy

    runtime = patient.runtime
    config = cast("Mapping[str, Any]", runtime.app.config)
    url = config.get(URI)
    if runtime.joined is not None:
        text = "The outbox's tables are among the app's: its migrations know them."
        yield Diagnosis("migrations", Grade.OK, text)
    elif not url or not is_beside(runtime.outbox, str(url)):
        yield Diagnosis("migrations", Grade.SKIPPED, "No app's tables stand beside the outbox's.")
    elif _leaves_alone(patient):
        yield Diagnosis("migrations", Grade.OK, "The app's migrations leave our tables alone.")
    else:
        yield Diagnosis(
            "migrations",
            Grade.ERROR,
            "The outbox's tables stand beside the app's, and nothing tells `flask db migrate` that"
            " they are not the app's to drop.",
            "Give Migrate(app, db, include_object=flask_outbox.include_object), or the same to"
            " context.configure() in migrations/env.py.",
        )


def _leaves_alone(patient: Patient) -> bool:
    """Look for it where Flask-Migrate was given it, and else in the words of env.py."""
    app = patient.runtime.app
    migrate = app.extensions.get("migrate")
    if "include_object" in getattr(migrate, "configure_args", {}):
        return True
    folder = Path(app.root_path, getattr(migrate, "directory", "migrations"))
    try:
        return "include_object" in (folder / "env.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
