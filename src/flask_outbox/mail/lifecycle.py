"""The states of a message and of each of its recipients: the only table of state changes."""

from collections.abc import Iterable
from enum import Enum


class State(Enum):
    """The stored word is the word in the code."""

    QUEUED = "queued"  # waits for its time
    SENDING = "sending"  # leased by a worker
    ACCEPTED = "accepted"  # the far side answered for it
    FAILED = "failed"  # refused, or given up
    UNKNOWN = "unknown"  # may have been accepted: for a person to decide
    CANCELLED = "cancelled"  # by the app, before it was claimed
    EXPIRED = "expired"  # too old to be of use, not sent


TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset(
        {State.SENDING, State.CANCELLED, State.EXPIRED, State.FAILED, State.UNKNOWN},
    ),
    State.SENDING: frozenset(
        {State.QUEUED, State.ACCEPTED, State.FAILED, State.UNKNOWN, State.EXPIRED},
    ),
    State.ACCEPTED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),  # retried by hand
    State.UNKNOWN: frozenset({State.QUEUED}),  # retried by hand
    State.CANCELLED: frozenset({State.QUEUED}),  # retried by hand
    State.EXPIRED: frozenset({State.QUEUED}),  # retried by hand
}

OPEN = frozenset({State.QUEUED, State.SENDING})

# A message with several recipients has the state that most wants to be looked at.
_CONCERN = (
    State.SENDING,
    State.QUEUED,
    State.UNKNOWN,
    State.FAILED,
    State.EXPIRED,
    State.CANCELLED,
    State.ACCEPTED,
)


def may(before: State, after: State) -> bool:
    """Tell whether the table has this change."""
    return after in TRANSITIONS[before]


def summary(states: Iterable[State]) -> State:
    """Sum up the recipients' states in the message's one."""
    return min(states, key=_CONCERN.index)
