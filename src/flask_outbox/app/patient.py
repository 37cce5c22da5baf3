"""What a doctor examines: an app, and what only a person can say of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from flask_outbox.mail.address import parse_address
from flask_outbox.mail.errors import MessageError

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime
    from flask_outbox.transports.base import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """An app under examination.

    ``now`` tells the time here, in seconds since 1970; ``seconds``: for each thing that is waited
    for; ``domains``: of From, besides MAIL_DEFAULT_SENDER's; ``addresses``: that mail leaves from;
    ``nameservers``: their addresses, in place of this machine's, and their ``port``.
    """

    runtime: "Runtime"
    now: Callable[[], float]
    seconds: float = 5.0
    dns: bool = True  # whether anything is looked up
    domains: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    nameservers: tuple[str, ...] = ()
    port: int = 53

    @property
    def from_domains(self) -> list[str]:
        """The domains that stand in From, in A-labels."""
        sender = self.runtime.state.default_sender
        own = [parse_address(sender, "MAIL_DEFAULT_SENDER").domain] if sender else []
        return list(dict.fromkeys([*own, *self.domains]))

    @property
    def ways(self) -> "Mapping[str, Transport]":
        """Each way out that is configured, by its route."""
        named = map(self.runtime.way, self.runtime.names())
        return {route: transport for way in named for route, transport in way.routes.items()}

    def bounce_domain(self, from_domain: str) -> str:
        """Give the domain of the envelope's sender, which SPF is asked for where that is ours."""
        own = self.runtime.settings.return_path
        return own.domain if own is not None else from_domain


def a_domain(text: str) -> str:
    """Read a domain as an address has it; raise MessageError."""
    try:
        return parse_address(f"postmaster@{text}", "--domain").domain
    except MessageError:
        raise MessageError("this is no domain, such as example.com") from None


def an_address(text: str) -> str:
    """Read an IP address; raise ValueError."""
    return str(ip_address(text))
