"""What every database under the outbox must do; subclass it and override ``make_outbox``.

Each part is a class of its own, so that a failure says which promise broke; ``OutboxContract`` is
all of them.
"""

from contract.outbox_claims import ClaimContract
from contract.outbox_crashes import CrashContract
from contract.outbox_enqueue import EnqueueContract
from contract.outbox_erase import EraseContract
from contract.outbox_failover import BesidesContract, FailoverContract
from contract.outbox_people import PeopleContract
from contract.outbox_privacy import EncryptionContract, RetentionContract, WipeContract
from contract.outbox_rates import RateContract
from contract.outbox_records import RecordContract
from contract.outbox_routes import RouteContract
from contract.outbox_walks import WalkContract
from contract.outbox_workers import WorkerContract


class OutboxContract(
    EnqueueContract,
    ClaimContract,
    CrashContract,
    RecordContract,
    RouteContract,
    FailoverContract,
    BesidesContract,
    RateContract,
    PeopleContract,
    EncryptionContract,
    WipeContract,
    RetentionContract,
    EraseContract,
    WorkerContract,
    WalkContract,
):
    """The whole suite."""
