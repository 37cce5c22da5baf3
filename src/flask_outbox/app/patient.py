"""What a doctor examines: an app, and what only a person can say of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """An app under examination.

    ``now``: the time here, in seconds since 1970; ``seconds``: for each thing that is waited for.
    """

    runtime: "Runtime"
    now: float
    seconds: float = 5.0
