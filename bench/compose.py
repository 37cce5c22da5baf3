"""What it costs to compose and seal one mail, beside its peers.

The typical message: 1 KB of text and 4 KB of HTML, a subject and names that are not ASCII, and a
new recipient each time. Ours includes every check and the out-guard that reads the bytes again.
CPU time of this process; rounds are interleaved, medians are shown.

It is measured twice. With bodies in ASCII nobody has to encode them: the ratio is judged by this.
With umlauts in the bodies we write quoted-printable, so that the mail is seven bits wide, while
Flask-Mail leaves them at eight: that row is shown, with the cost of ``binascii.b2a_qp`` alone.

    python bench/compose.py            exit status 1 when the ratio is not reached
    python bench/compose.py --profile  where our time goes
"""

import argparse
import cProfile
import statistics
import sys
import time
from binascii import b2a_qp
from collections.abc import Callable
from dataclasses import dataclass
from email.header import Header
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import SMTP
from email.utils import formataddr, formatdate, make_msgid

import flask
import flask_mail

from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal, unseal

TARGET = 20.0
ROUNDS = 25
NOW = 1_800_000_000.0
SENDER = ("Jürgens Bücherstube", "shop@example.com")
SUBJECT = "Ihre Bestellung Nº 4711 ist unterwegs ✓"
TEXT = (
    "Guten Tag, Jörg Müller!\n\nIhre Bestellung hat soeben unser Haus verlassen, wird in zwei"
    " Tagen\nbei Ihnen sein und läßt sich hier verfolgen: https://example.com/t/4711\n\n" * 7
)[:1024]
HTML = (
    '<tr><td style="padding: 4px 8px; color: #333">Die Vermessung der Welt, gebunden</td>\n'
    "<td align='right'>1 Stück</td><td align='right'>19,90 €</td></tr>\n<p>Schöne Grüße</p>\n" * 25
)[:4096]


@dataclass(frozen=True)
class Bodies:
    """What the mail says."""

    text: str
    html: str

    def ascii(self) -> "Bodies":
        """Spell it without umlauts."""
        return Bodies(*(each.translate(SPELT) for each in (self.text, self.html)))


SPELT = str.maketrans({"ö": "oe", "ü": "ue", "ß": "ss", "ä": "ae", "€": "EUR"})
UMLAUTS = Bodies(TEXT, HTML)
bodies = UMLAUTS.ascii()


def ours(number: int) -> bytes:
    """Compose, check, seal, scan."""
    to = [(f"Jörg Müller {number}", f"joerg{number}@example.org")]
    return seal(Message(SUBJECT, to, bodies.text, bodies.html, sender=SENDER), now=NOW).content


def flask_mail_0_10(number: int) -> bytes:
    """Flask-Mail, as its documentation has it."""
    to = [(f"Jörg Müller {number}", f"joerg{number}@example.org")]
    message = flask_mail.Message(SUBJECT, to, bodies.text, bodies.html, sender=SENDER)
    message.date = NOW
    return message.as_bytes()


def email_message(number: int) -> bytes:
    """Python's present API."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = SUBJECT
    message["From"] = formataddr(SENDER)
    message["To"] = formataddr((f"Jörg Müller {number}", f"joerg{number}@example.org"))
    message["Date"] = formatdate(NOW)
    message["Message-ID"] = make_msgid(domain="example.com")
    message.set_content(bodies.text)
    message.add_alternative(bodies.html, subtype="html")
    return message.as_bytes()


def mime_text(number: int) -> bytes:
    """Python's legacy API."""
    message = MIMEMultipart("alternative")
    message["Subject"] = Header(SUBJECT, "utf-8")
    message["From"] = formataddr(SENDER)
    message["To"] = formataddr((f"Jörg Müller {number}", f"joerg{number}@example.org"))
    message["Date"] = formatdate(NOW)
    message["Message-ID"] = make_msgid(domain="example.com")
    message.attach(MIMEText(bodies.text, "plain", "utf-8"))
    message.attach(MIMEText(bodies.html, "html", "utf-8"))
    return message.as_bytes()


PEERS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "Flask-Outbox": (ours, 400),
    "Flask-Mail 0.10": (flask_mail_0_10, 20),
    "email.message.EmailMessage": (email_message, 20),
    "email.mime.text.MIMEText": (mime_text, 40),
}


def cost(compose: Callable[[int], bytes], first: int, times: int) -> float:
    """Give the microseconds of CPU of one."""
    begin = time.process_time()
    for number in range(first, first + times):
        compose(number)
    return (time.process_time() - begin) / times * 1e6


def measure() -> dict[str, float]:
    """Interleave the rounds, so that a busy machine is as unkind to one as to the other."""
    costs: dict[str, list[float]] = {name: [] for name in PEERS}
    for turn in range(ROUNDS + 1):
        for name, (compose, times) in PEERS.items():
            spent = cost(compose, turn * times, times)
            if turn:  # the first round warms up
                costs[name].append(spent)
    return {name: statistics.median(spent) for name, spent in costs.items()}


def agree() -> None:
    """See that all four wrote the same mail, or the figures say nothing."""
    for name, (compose, _) in PEERS.items():
        parts = unseal(compose(7))
        assert parts.subject == SUBJECT, name
        assert (parts.to[0].name, parts.to[0].addr) == ("Jörg Müller 7", "joerg7@example.org"), name
        assert (parts.sender.name, parts.sender.addr) == SENDER, name
        assert (parts.text or "").rstrip() == bodies.text.rstrip(), name
        assert (parts.html or "").rstrip() == bodies.html.rstrip(), name


def report(title: str, costs: dict[str, float]) -> float:
    """Print the table; give the ratio to Flask-Mail."""
    mine = costs["Flask-Outbox"]
    print(f"{title:34}{'CPU, µs':>10}{'times ours':>12}")
    for name, spent in costs.items():
        print(f"{name:34}{spent:10.1f}{spent / mine:12.1f}")
    return costs["Flask-Mail 0.10"] / mine


def encoding_alone() -> float:
    """Give the microseconds that quoted-printable takes of the bodies with umlauts."""
    both = [each.encode() for each in (UMLAUTS.text, UMLAUTS.html)]
    return statistics.median(
        cost(lambda _: b"".join(map(b2a_qp, both)), 0, 200) for _ in range(ROUNDS)
    )


def main() -> int:
    """Measure, print, judge."""
    global bodies  # noqa: PLW0603  the four composers above are to look like what apps write
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where our time goes")
    asked = parser.parse_args()
    app = flask.Flask("bench")
    flask_mail.Mail(app)
    with app.app_context():
        agree()
        if asked.profile:
            cProfile.runctx("cost(ours, 0, 5000)", globals(), {}, sort="tottime")
            return 0
        ratio = report("one mail, bodies in ASCII", measure())
        print(f"Flask-Mail / Flask-Outbox = {ratio:.1f}, wanted: at least {TARGET:.0f}\n")
        bodies = UMLAUTS
        agree()
        other = report("one mail, bodies with umlauts", measure())
        print(f"Flask-Mail / Flask-Outbox = {other:.1f}; b2a_qp alone {encoding_alone():.1f} µs")
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
