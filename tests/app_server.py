"""A real SMTP server for the tests of the app: what it accepted, and how often it was called."""

from contextlib import contextmanager
from typing import NamedTuple

from aiosmtpd.controller import Controller


class Taken(NamedTuple):
    sender: str
    recipients: list[str]
    content: bytes
    peer: tuple


class Handler:
    def __init__(self, answers):
        self.taken: list[Taken] = []
        self.answers = answers

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802  aiosmtpd
        if answer := self.answers.get(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  aiosmtpd
        self.taken.append(
            Taken(envelope.mail_from, envelope.rcpt_tos, envelope.original_content, session.peer)
        )
        return self.answers.get("DATA", "250 ok queued as 7F3")


class Server(Controller):
    """On whichever port is free; ``answers``: by recipient, or DATA, in place of 250."""

    def __init__(self, answers=None, **options):
        self.handler = Handler(answers or {})
        super().__init__(self.handler, hostname="127.0.0.1", port=0, **options)

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()

    @property
    def taken(self):
        return self.handler.taken


@contextmanager
def running(answers=None, **options):
    server = Server(answers, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
