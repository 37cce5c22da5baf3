"""Ports for servers that are told theirs before they listen."""

import contextlib
import random
import socket

# The kernel gives ports from 32,768 on to whoever connects, or binds to port 0. One of those may be
# taken between the look and the server's start, and then somebody else answers there.
NEVER_GIVEN = range(20_000, 32_768)
ANY = random.SystemRandom()  # property tests give the module's own the same seed in each process


def free_port() -> int:
    """Find one that nobody listens on."""
    while True:
        port = ANY.choice(NEVER_GIVEN)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
