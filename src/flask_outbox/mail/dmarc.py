"""What a domain says of mail that fails, and which domains stand for it: RFC 7489, RFC 9989.

The organisational domain is found as RFC 9989 does, by walking up the tree: that of the record
with the fewest labels. It takes no list of public suffixes; where RFC 7489's receivers, who have
one, come to another, a record at the domain itself makes both agree.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass

from flask_outbox.mail.lookup import Ask, Found

MOST = 8  # look-ups of one walk

# It stands first, and alone has letters that are not to be changed (RFC 7489 section 6.4).
_VERSION = re.compile(r"[Vv][ \t]*=[ \t]*DMARC1[ \t]*(;|$)")


@dataclass(frozen=True, slots=True)
class Dmarc:
    """``policy``: none, quarantine or reject; "" where there is no record. ``strict``: see below.

    ``organisation``: the organisational domain; the domain itself where there is no record.
    ``unknown``: what nobody could tell.
    """

    policy: str
    organisation: str
    strict_dkim: bool = False
    strict_spf: bool = False
    problem: str = ""
    unknown: str = ""


def check(domain: str) -> Generator[Ask, Found, Dmarc]:
    """Find the record that holds for a From domain."""
    policy: dict[str, str] | None = None
    organisation, own = domain, True
    labels = domain.split(".")
    walk = [labels, *(labels[at:] for at in range(max(1, len(labels) - MOST + 1), len(labels)))]
    for each in walk:
        name = ".".join(each)
        found = yield Ask(f"_dmarc.{name}", "TXT")
        if found.unknown:
            return Dmarc("", organisation, unknown=f"_dmarc.{name}: {found.how.value}")
        records = [text for text in found.records if _VERSION.match(text)]
        if not records and name == domain and any("DMARC1" in each for each in found.records):
            return Dmarc("", name, problem=f"_dmarc.{name} does not begin with v=DMARC1;")
        if len(records) > 1:
            return Dmarc("", name, problem=f"_dmarc.{name} has {len(records)} records")
        if records:
            tags = _tags(records[0])
            if tags.get("psd") == "y" and name != domain:
                break  # a registry's: the organisation is below it
            organisation = name
            if policy is None:
                policy, own = tags, name == domain
            if tags.get("psd") == "n":
                break
    if policy is None:
        return Dmarc("", domain)
    said = policy.get("p", "")
    held = said if own else policy.get("sp", said)
    problem = "" if held in {"none", "quarantine", "reject"} else "it names no policy in p="
    return Dmarc(held, organisation, policy.get("adkim") == "s", policy.get("aspf") == "s", problem)


def aligned(one: str, other: str, *, strict: bool, organisations: tuple[str, str]) -> bool:
    """Tell whether two domains stand for each other: equal, or relaxed, of one organisation."""
    return one == other or (not strict and organisations[0] == organisations[1])


def _tags(record: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in record.split(";"))
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
