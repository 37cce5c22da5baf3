"""The doctor's look at the outbox: schema, durability, clock, and who sends what is due."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic

from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.wire.blocking import within

UNHEEDED = 150.0  # seconds: a sweep of Celery's, or a drain of cron's, may have just failed to come
BEGINS = {  # by MAIL_WORKER, or for an app's own engine
    "engine": "See that your engine reaches somebody, and that mail.drain() is called there.",
    "embedded": "Let the app serve a request: the worker in each of its processes begins with one.",
    "process": "Run `flask outbox worker`.",
    "celery": "See that beat runs, and that a Celery worker consumes the queue that the task"
    " flask_outbox.drain goes to, by task_routes or by default.",
}
APART = 5.0  # seconds between two clocks before a person should know
SILENT = (
    "Look whether its server can be reached, or whether another program, such as a database shell,"
    " keeps a transaction open in its file; --timeout waits longer."
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
    try:
        found = within(monotonic() + patient.seconds, partial(examine, runtime.outbox, patient.now))
    except TimeoutError:
        text = f"{runtime.place} did not answer within {patient.seconds:g} s."
        yield Diagnosis("outbox", Grade.ERROR, text, SILENT)
        return
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
    yield _clock(found.ahead)
    kind = runtime.settings.worker if runtime.engine is None else "engine"
    yield _workers(found.unheeded, kind)


def _workers(unheeded: float, kind: str) -> Diagnosis:
    if unheeded <= UNHEEDED:
        return Diagnosis("workers", Grade.OK, "No mail is due that nobody looks after.")
    text = f"Mail is due, and no worker and no drain has been heard of for {unheeded:.0f} s."
    return Diagnosis("workers", Grade.WARNING, text, BEGINS[kind])


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
