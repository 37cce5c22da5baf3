"""What a doctor finds: how bad it is, what it is, and what to do about it."""

from dataclasses import dataclass
from enum import Enum


class Grade(Enum):
    """How bad a finding is; ``skipped``: it could not be looked at, or there is nothing to see."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One finding of one check. ``fix``: what to do; nothing where all is well."""

    check: str
    severity: Grade
    text: str
    fix: str = ""
