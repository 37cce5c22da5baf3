"""What of an address may stand in a log line or an exception: its domain."""

import re

_MAILBOX = re.compile(r"[^\s<>@:;,\"'=]+@(?=[^\s<>@])")


def masked(text: str) -> str:
    """Leave of each mailbox only its domain."""
    return _MAILBOX.sub("…@", text)
