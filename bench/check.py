"""What it costs at ``send_later`` to know that a provider can carry a mail.

The mail of ``bench/compose.py``: 1 KB of text, 4 KB of HTML, names that are not ASCII. Beside it
what it takes to make the whole request, which is the other way to know. CPU time of this process;
rounds are interleaved, medians are shown.

    python bench/check.py
"""

import statistics
import time
from collections.abc import Callable

from compose import HTML, NOW, SENDER, SUBJECT, TEXT

from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.transports.base import HttpTransport
from flask_outbox.transports.mailgun import Mailgun
from flask_outbox.transports.postmark import Postmark
from flask_outbox.transports.resend import Resend
from flask_outbox.transports.sendgrid import SendGrid
from flask_outbox.transports.ses import Ses

ROUNDS, TIMES = 25, 20
WAYS: list[HttpTransport] = [
    *(Resend("key"), Postmark("key"), SendGrid("key")),
    *(Mailgun("key", "mg.example.com"), Ses("eu-west-1")),
]
MAIL = seal(Message(SUBJECT, ["ada@example.org"], TEXT, html=HTML, sender=SENDER), now=NOW)


def timed(work: Callable[[], object]) -> float:
    """Give microseconds for one."""
    began = time.process_time()
    for _ in range(TIMES):
        work()
    return (time.process_time() - began) / TIMES * 1e6


def main() -> None:
    """Measure each, and print a table."""
    checks: dict[str, list[float]] = {way.name: [] for way in WAYS}
    requests: dict[str, list[float]] = {way.name: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            checks[way.name].append(timed(lambda way=way: way.check(MAIL)))
            requests[way.name].append(timed(lambda way=way: way.request(MAIL)))
    print("µs           check    request")
    for name, found in checks.items():
        print(f"{name:9} {statistics.median(found):8.0f} {statistics.median(requests[name]):10.0f}")


if __name__ == "__main__":
    main()
