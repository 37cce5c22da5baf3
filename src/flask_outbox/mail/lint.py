"""``lint()``: what a sealed message would be blamed for, found before it is sent.

Of people who cannot read it, of mailbox providers, of whoever finds a secret in an inbox. RULES
says all that is looked for; what is read of a mail is in lint_letter.py and lint_page.py.
No finding quotes a secret, a link's path or the text: it says where to look and what to do.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from types import MappingProxyType

from flask_outbox.mail import lint_body, lint_cards, lint_keys, lint_links, lint_passwords
from flask_outbox.mail.lint_letter import Letter, read


class Severity(Enum):
    """How bad it is: ``info`` is no reason to change anything."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. ``rule``: its name in RULES; ``text``: what it is, and what to do."""

    rule: str
    severity: Severity
    text: str


Rule = Callable[[Letter], Iterator[str]]

RULES: Mapping[str, tuple[Severity, Rule]] = MappingProxyType(
    {
        "subject": (Severity.WARNING, lint_body.subject),
        "no-text": (Severity.WARNING, lint_body.no_text),
        "text-differs": (Severity.WARNING, lint_body.text_differs),
        "html-size": (Severity.WARNING, lint_body.html_size),
        "image-alt": (Severity.WARNING, lint_body.image_alt),
        "image-balance": (Severity.WARNING, lint_body.image_balance),
        "list-unsubscribe": (Severity.ERROR, lint_body.list_unsubscribe),
        "one-click": (Severity.WARNING, lint_body.one_click),
        "link-https": (Severity.WARNING, lint_links.without_https),
        "link-dead": (Severity.ERROR, lint_links.dead),
        "link-host": (Severity.ERROR, lint_links.other_host),
        "link-look-alike": (Severity.WARNING, lint_links.look_alike),
        "password": (Severity.ERROR, lint_passwords.password),
        "access-key": (Severity.ERROR, lint_keys.access_key),
        "card-number": (Severity.ERROR, lint_cards.card_number),
        "not-read": (Severity.INFO, lint_body.not_read),
    },
)


MOST = 20  # findings of one rule; who has mended those asks again


def lint(content: bytes) -> list[Finding]:
    """Look through a sealed message, or an .eml file of any origin; in the order of RULES.

    Raises MessageError for what is no mail. Of a text, the first million letters are read.
    """
    letter = read(content)
    return [
        Finding(name, severity, text)
        for name, (severity, rule) in RULES.items()
        for text in islice(rule(letter), MOST)
    ]
