"""The doctor's look at the outbox: schema, durability, clock; and at the app's migrations."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from flask_outbox.app.joined import URI
from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade

APART = 5.0  # seconds between two clocks before a person should know
WORD = "include_object"
BESIDE = "The outbox's tables stand beside the app's"
FIX = (
    "Give Migrate(app, db, include_object=flask_outbox.include_object), or the same to"
    " context.configure() in env.py."
)


def outbox(patient: Patient) -> Iterator[Diagnosis]:
    """Read its schema, its settings of durability and its clock."""
    from flask_outbox.outbox.examine import cannot_be_made, examine  # noqa: PLC0415  SQLAlchemy

    runtime = patient.runtime
    if not runtime.exists:
        where = runtime.where
        if isinstance(where, Path) and (why := cannot_be_made(where)):
            yield Diagnosis(
                "outbox",
                Grade.ERROR,
                f"There is no outbox, and {runtime.place} cannot be made: {why}.",
                "Make its folder, writable for the user that runs this, or set MAIL_OUTBOX_URL to"
                " a file elsewhere.",
            )
            return
        yield Diagnosis(
            "outbox",
            Grade.SKIPPED,
            f"There is no outbox yet: {runtime.place} is made with the first mail.",
        )
        return
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
    else:
        yield _of_app(patient)


def _of_app(patient: Patient) -> Diagnosis:
    """Look for include_object where Flask-Migrate was given it, and else in env.py."""
    migrate = patient.runtime.app.extensions.get("migrate")
    well = Diagnosis("migrations", Grade.OK, "The app's migrations leave our tables alone.")
    if WORD in getattr(migrate, "configure_args", {}):
        return well
    # As Flask-Migrate has it: below the folder that `flask` is run in, not that of the app.
    env = Path(getattr(migrate, "directory", "migrations"), "env.py")
    if env.exists():
        if _passes_it(env):
            return well
        text = "nothing tells `flask db migrate` that they are not the app's to drop."
        return Diagnosis("migrations", Grade.ERROR, f"{BESIDE}, and {text}", FIX)
    if migrate is None:
        text = f"The app has no Flask-Migrate, and there is no {env}."
        return Diagnosis("migrations", Grade.SKIPPED, text)
    text = f"{BESIDE}, and there is no {env} here to say that they are not the app's to drop."
    return Diagnosis("migrations", Grade.WARNING, text, f"Look from where `flask db` is run. {FIX}")


def _passes_it(env: Path) -> bool:
    """Tell whether it is passed on by its name, as an argument or in a dict.

    A comment, or an import alone, passes nothing on.
    """
    try:
        nodes = list(ast.walk(ast.parse(env.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return False
    return any(
        (isinstance(each, ast.keyword) and each.arg == WORD)
        or (isinstance(each, ast.Constant) and each.value == WORD)
        for each in nodes
    )
