"""``flask outbox doctor``: what is wrong with an app's set-up, before its users find out.

CHECKS is all that is looked at, in order. A check only looks: it sends no mail, makes no outbox and
migrates none, and what it waits for it waits for no longer than ``seconds``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from flask_outbox.app import doctor_app, doctor_dns, doctor_migrations, doctor_outbox, doctor_ways
from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.mail.errors import OutboxError

Check = Callable[[Patient], Iterable[Diagnosis]]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "settings": doctor_app.settings,
        "keys": doctor_app.keys,
        "base URL": doctor_app.base_url,
        "outbox": doctor_outbox.outbox,
        "migrations": doctor_migrations.migrations,
        "transports": doctor_ways.transports,
        "dns": doctor_dns.published,
    }
)


def examine(patient: Patient, before: Callable[[str], object]) -> Iterator[Diagnosis]:
    """Give what each check finds; ``before`` hears which is next."""
    for name, check in CHECKS.items():
        before(name)
        try:
            yield from check(patient)
        except OutboxError as error:
            yield Diagnosis(name, Grade.ERROR, str(error), "Mend what it names.")
