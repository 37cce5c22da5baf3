"""What a domain says of mail that fails, and which domains stand for it: RFC 7489, RFC 9989.

The organisational domain is found as RFC 9989 does, by walking up the tree: that of the record
with the fewest labels, or one label below a registry's (psd=y). It takes no list of public
suffixes; where RFC 7489's receivers, who have one, come to another, a record at the domain itself
makes both agree.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass, replace

from flask_outbox.mail.lookup import Ask, Found

MOST = 8  # look-ups of one walk

# It stands first, and alone has letters that are not to be changed (RFC 7489 section 6.4).
_VERSION = re.compile(r"[Vv][ \t]*=[ \t]*DMARC1[ \t]*(;|$)")


@dataclass(frozen=True, slots=True)
class Dmarc:
    """``policy``: none, quarantine or reject; "" where there is no record. ``strict``: see below.

    ``organisation``: the organisational domain; the domain itself where there is no record.
    ``unknown``: what nobody could tell; with a policy, only where the organisation ends.
    """

    policy: str
    organisation: str
    strict_dkim: bool = False
    strict_spf: bool = False
    problem: str = ""
    unknown: str = ""


def check(domain: str) -> Generator[Ask, Found, Dmarc]:
    """Find the record that holds for a From domain.

    One of its own holds whatever is above it: several there are as none (RFC 9989 section 4.10).
    """
    held: dict[str, dict[str, str]] = {}  # the tags of each record, from the domain upwards
    organisation = domain
    for name in _walk(domain):
        found = yield Ask(f"_dmarc.{name}", "TXT")
        if found.unknown:
            own = domain in held
            known = _policy(domain, organisation, held) if own else Dmarc("", organisation)
            return replace(known, unknown=f"_dmarc.{name}: {found.how.value}")
        records = [text for text in found.records if _VERSION.match(text)]
        if name == domain and (problem := _problem(found.records, len(records))):
            return Dmarc("", name, problem=f"_dmarc.{name} {problem}")
        if len(records) != 1:
            continue
        held[name] = _tags(records[0])
        public = held[name].get("psd")
        is_registry = public == "y" and name != domain
        organisation = _one_below(name, domain) if is_registry else name
        if is_registry or public == "n":
            break
    return _policy(domain, organisation, held)


def _walk(domain: str) -> list[str]:
    """List the names that are asked for, upwards (RFC 9989 section 4.10)."""
    labels = domain.split(".")
    above = range(max(1, len(labels) - MOST + 1), len(labels))
    return [domain, *(".".join(labels[at:]) for at in above)]


def _problem(texts: tuple[str, ...], records: int) -> str:
    """Say what keeps a domain's own texts, of which so many are records, from being one."""
    if records > 1:
        return f"has {records} records"
    damaged = not records and any("DMARC1" in each for each in texts)
    return "does not begin with v=DMARC1;" if damaged else ""


def _one_below(name: str, domain: str) -> str:
    """Give what stands one label below a name, on the way to a domain."""
    return ".".join(domain.split(".")[-name.count(".") - 2 :])


def _policy(domain: str, organisation: str, held: dict[str, dict[str, str]]) -> Dmarc:
    """Take the record of the domain, or of its organisation, or of the registry above that."""
    if not held:
        return Dmarc("", domain)
    name = next(each for each in (domain, organisation, *reversed(held)) if each in held)
    tags = held[name]
    said = tags.get("p", "")
    policy = said if name == domain else tags.get("sp", said)
    problem = "" if policy in {"none", "quarantine", "reject"} else "it names no policy in p="
    strict_dkim, strict_spf = tags.get("adkim") == "s", tags.get("aspf") == "s"
    return Dmarc(policy, organisation, strict_dkim, strict_spf, problem)


def aligned(one: str, other: str, *, strict: bool, organisations: tuple[str, str]) -> bool:
    """Tell whether two domains stand for each other: equal, or relaxed, of one organisation."""
    return one == other or (not strict and organisations[0] == organisations[1])


def _tags(record: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in record.split(";"))
    return {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
