"""Look-ups in the domain name system, by dnspython: what it raises is a value here.

Over UDP, and over TCP where an answer is too long for that; no answer is kept.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdtypes.ANY.TXT
import dns.resolver
import dns.reversename

from flask_outbox.mail.lookup import Ask, Found, How, Looking

T = TypeVar("T")


class Resolver:
    """Asks the name servers of this machine, or those that are named by their addresses.

    ``seconds`` bounds a look-up as a whole, whatever number of servers is tried.
    """

    def __init__(
        self, nameservers: Sequence[str] = (), port: int = 53, *, seconds: float = 5.0
    ) -> None:
        self._servers = nameservers
        self._port = port
        self._seconds = seconds
        self._resolver: dns.resolver.Resolver | None = None

    def _asked(self) -> dns.resolver.Resolver:
        if self._resolver is None:
            self._resolver = made = dns.resolver.Resolver(configure=not self._servers)
            if self._servers:
                made.nameservers = list(self._servers)
                made.port = self._port
        return self._resolver

    def look_up(self, ask: Ask) -> Found:
        """Ask once; every way in which it can end is a value."""
        try:
            name = (
                dns.reversename.from_address(ask.name)
                if ask.kind == "PTR"
                else dns.name.from_text(ask.name)
            )
            answer = self._asked().resolve(name, ask.kind, lifetime=self._seconds, search=False)
        except dns.resolver.NXDOMAIN:
            return Found(How.NO_NAME)
        except dns.resolver.NoAnswer:
            return Found(How.EMPTY)
        except dns.resolver.LifetimeTimeout:
            return Found(How.TIMEOUT)
        except (dns.resolver.NoNameservers, dns.resolver.NoResolverConfiguration):
            return Found(How.FAILED)
        except (dns.exception.DNSException, UnicodeError):  # of the name: a label is too long
            return Found(How.NO_SENSE)
        records = cast("Sequence[dns.rdata.Rdata]", answer)
        return Found(How.FOUND, tuple(map(_text, records)))

    def carry(self, looking: Looking[T]) -> T:
        """Answer all that it asks, and give what it comes to."""
        found: Found | None = None
        while True:
            try:
                ask = next(looking) if found is None else looking.send(found)
            except StopIteration as end:
                result: T = end.value
                return result
            found = self.look_up(ask)


def _text(record: dns.rdata.Rdata) -> str:
    if isinstance(record, dns.rdtypes.ANY.TXT.TXT):
        return b"".join(record.strings).decode("latin-1")
    text = record.to_text()
    return text if text.endswith(" .") else text.removesuffix(".")
