"""MAIL_REDIRECT_TO and MAIL_ALLOW_ONLY: a copy of production data writes to nobody by accident.

Whoever is not allowed is taken out of To, Cc, Bcc and the envelope alike. With MAIL_REDIRECT_TO
the mail goes to that address instead, and a header says whom it was for.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from flask_outbox.app.settings import Settings
from flask_outbox.mail.address import Address, parse_address
from flask_outbox.mail.attachment import in_order
from flask_outbox.mail.message import Mailbox, Message
from flask_outbox.mail.say import Say

log = Say("flask_outbox")

HEADER = "X-Redirected-From"
NAMES_OTHERS = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"})


def is_on(settings: Settings) -> bool:
    """Tell whether there is a sandbox at all."""
    return bool(settings.redirect_to or settings.allow_only)


def contained(message: Message, settings: Settings) -> Message:
    """Give a copy that goes only where it may; perhaps to nobody."""
    kept = copy(message)
    held: list[str] = []
    for field in ("recipients", "cc", "bcc"):
        several: Sequence[Mailbox] = getattr(message, field) or ()
        if isinstance(several, (str, Address)):
            return message  # sealing says what is wrong with it
        stay: list[Mailbox] = []
        for each in in_order(several):
            addr = parse_address(each, field).addr
            if _is_allowed(addr, settings):
                stay.append(each)
            else:
                held.append(addr)
        setattr(kept, field, stay)
    kept.extra_headers = {
        name: value
        for name, value in (message.extra_headers or {}).items()
        if name.lower() not in NAMES_OTHERS
    }
    if held:
        _redirect(kept, held, settings)
    return kept


def _redirect(kept: Message, held: Sequence[str], settings: Settings) -> None:
    if settings.redirect_to:
        kept.recipients = [*kept.recipients, *settings.redirect_to]
        kept.extra_headers = {**(kept.extra_headers or {}), HEADER: ", ".join(held)}
        log.info("MAIL_REDIRECT_TO: a mail for %d recipients was redirected.", len(held))
    else:
        log.info("MAIL_ALLOW_ONLY: %d recipients of a mail were left out.", len(held))
    if kept.dsn is not None:
        notify = {who: what for who, what in kept.dsn.notify.items() if who == "*"}
        kept.dsn = replace(kept.dsn, notify=notify)


def _is_allowed(addr: str, settings: Settings) -> bool:
    own = {address.addr for address in settings.redirect_to}
    domain = addr.rpartition("@")[2]
    return addr in own or addr.lower() in settings.allow_only or f"@{domain}" in settings.allow_only
