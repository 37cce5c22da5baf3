"""What it costs to sign one mail by DKIM, beside one bare signature of OpenSSL, and dkimpy.

The typical mail of compose.py. A bare signature is ``key.sign`` of ``cryptography`` over a digest
that is there already: what no signer by that key can do without. CPU time of this process; rounds
are interleaved, medians are shown, and the ratio is that of the same round.

    python bench/dkim.py            exit status 1 when the ratio is not reached
"""

import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import import_module
from typing import Any

from compose import HTML, SENDER, SUBJECT, TEXT
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal
from flask_outbox.transports.dkim import by_domain, sign
from flask_outbox.transports.dkim_key import DkimKey

sys.path.append(sys.path.pop(0))  # dkimpy's package is called as this program is
dkim: Any = import_module("dkim")

TARGET = 1.75
ROUNDS = 25
RSA = generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.generate()
RSA_KEY, ED_KEY = DkimKey("example.com", "r", RSA), DkimKey("example.com", "e", ED)
TO = ("Jörg Müller", "joerg@example.org")
MAIL = seal(Message(SUBJECT, [TO], TEXT, HTML, sender=SENDER), now=time.time())
DIGEST = sha256(b"digest").digest()
RSA_PEM = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
ED_SEED = b64encode(ED.private_bytes_raw())
FIELDS = [b"from", b"to", b"subject", b"date", b"message-id", b"mime-version", b"content-type"]


def dkimpys(algorithm: bytes, selector: bytes, key: bytes) -> bytes:
    """Sign as its documentation says, what is in the mail once and once more."""
    signer = dkim.DKIM(MAIL.content, signature_algorithm=algorithm)
    how = (b"relaxed", b"relaxed")
    line: bytes = signer.sign(
        selector, b"example.com", key, canonicalize=how, include_headers=FIELDS * 2
    )
    return line + MAIL.content


BARE, OURS = "one bare signature, RSA-2048", "sign(), RSA-2048"
WAYS: dict[str, tuple[Callable[[], object], int]] = {
    BARE: (partial(RSA.sign, DIGEST, PKCS1v15(), Prehashed(SHA256())), 100),
    OURS: (partial(sign, MAIL, by_domain([RSA_KEY])), 100),
    "sign(), RSA-2048 and Ed25519": (partial(sign, MAIL, by_domain([RSA_KEY, ED_KEY])), 100),
    "dkimpy, RSA-2048": (partial(dkimpys, b"rsa-sha256", b"r", RSA_PEM), 5),
    "one bare signature, Ed25519": (partial(ED.sign, DIGEST), 200),
    "sign(), Ed25519": (partial(sign, MAIL, by_domain([ED_KEY])), 200),
    "dkimpy, Ed25519": (partial(dkimpys, b"ed25519-sha256", b"e", ED_SEED), 50),
}


def agree() -> None:
    """See that what is measured are signatures that hold."""
    records = {key.name.encode(): key.record.encode() for key in (RSA_KEY, ED_KEY)}

    def holds(content: bytes, at: int = 0) -> bool:
        found: bool = dkim.DKIM(content).verify(
            idx=at,
            dnsfunc=lambda name, timeout: records[name.rstrip(b".")],  # noqa: ARG005  its own
        )
        return found

    both = sign(MAIL, by_domain([RSA_KEY, ED_KEY])).content
    assert holds(both) and holds(both, 1)  # noqa: PT018  two of one
    assert holds(dkimpys(b"rsa-sha256", b"r", RSA_PEM))
    assert holds(dkimpys(b"ed25519-sha256", b"e", ED_SEED))


def cost(way: Callable[[], object], times: int) -> float:
    """Give the microseconds of CPU of one."""
    begin = time.process_time()
    for _ in range(times):
        way()
    return (time.process_time() - begin) / times * 1e6


def main() -> int:
    """Measure, print, judge."""
    agree()
    costs: dict[str, list[float]] = {name: [] for name in WAYS}
    for turn in range(ROUNDS + 1):
        for name, (way, times) in WAYS.items():
            spent = cost(way, times)
            if turn:  # the first round warms up
                costs[name].append(spent)
    print(f"{f'one mail, {len(MAIL.content):,} octets':34}{'CPU, µs':>10}{'to bare RSA':>14}")
    ratios: dict[str, float] = {}
    for name, spent in costs.items():
        pairs = zip(spent, costs[BARE], strict=True)
        ratios[name] = statistics.median(one / bare for one, bare in pairs)
        print(f"{name:34}{statistics.median(spent):10.1f}{ratios[name]:14.2f}")
    print(f"{OURS} / {BARE} = {ratios[OURS]:.2f}, wanted: at most {TARGET}")
    return 0 if ratios[OURS] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
