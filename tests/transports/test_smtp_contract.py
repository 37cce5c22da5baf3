"""The contract, for SMTP in each of its three ways of speaking."""

import pytest

from contract.transport_contract import TransportContract
from dialogue import ME
from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import Open, Opened, Read, Report, SmtpReply, Write
from flask_outbox.transports.smtp import Smtp

PASSWORD = "correct horse"


class FriendlyServer:
    """Takes everything: a server that reads what was written, and answers it all."""

    def __init__(self, *offers):
        self.offers = offers
        self.unread = b""
        self.replies = [SmtpReply(220, ("hi",))]
        self.in_content = False

    def hear(self, data):
        self.unread += data
        while self.unread:
            if self.in_content:
                _, end, rest = self.unread.partition(b"\r\n.\r\n")
                if not end:
                    return
                self.in_content, self.unread = False, rest
                self.say(250, "queued as 7F3")
                continue
            line, end, rest = self.unread.partition(b"\r\n")
            if not end:
                return
            verb, *words = line.split()
            if verb == b"BDAT":
                rest = rest[int(words[0]) :]
            self.unread = rest
            self.answer(verb)

    def answer(self, verb):
        match verb:
            case b"EHLO":
                self.say(250, "hi", *self.offers)
            case b"DATA":
                self.in_content = True
                self.say(354, "go on")
            case b"AUTH":
                self.say(235, "welcome")
            case b"QUIT":
                self.say(221, "bye")
            case _:
                self.say(250, "ok")

    def say(self, code, *lines):
        self.replies.append(SmtpReply(code, lines))


class SmtpContract(TransportContract):
    offers: tuple[str, ...] = ()
    secrets = (PASSWORD,)

    @pytest.fixture
    def transport(self):
        return Smtp("localhost", username="shop", password=PASSWORD, ehlo_name=ME)

    @pytest.fixture
    def broken(self):
        return Smtp("nobody.example.com", username="shop", password=PASSWORD)

    def carry(self, conversation):
        reports, answer, broken = [], None, None
        server = FriendlyServer(*self.offers, "AUTH PLAIN")
        while True:
            try:
                question = conversation.throw(broken) if broken else conversation.send(answer)
            except StopIteration:
                return reports
            answer = broken = None
            match question:
                case Open(host="nobody.example.com"):
                    broken = WireError("no connection")
                case Open():
                    answer = Opened(None, "192.0.2.7")
                case Write():
                    server.hear(b"".join(question.blocks))
                case Read():
                    answer = server.replies.pop(0)
                case Report():
                    reports.append(question)


class TestInLockstep(SmtpContract):
    pass


class TestInGroups(SmtpContract):
    offers = ("PIPELINING",)


class TestInChunks(SmtpContract):
    offers = ("PIPELINING", "CHUNKING")
