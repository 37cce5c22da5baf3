"""What a domain's SPF record costs to look up: RFC 7208, walked as if no mechanism matched.

So all that a receiver may have to ask is counted: ten mechanisms that look something up (section
4.6.4), two of them in vain, one record, ten names of an ``mx``. A macro is counted and not
followed, since what it comes to is known when a mail arrives.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass

from flask_outbox.mail.lookup import Ask, Found, Looking

MOST, MOST_VOID, MOST_MX = 10, 2, 10  # RFC 7208 section 4.6.4

_TERM = re.compile(r"([+?~-]?)(all|include|a|mx|ptr|ip4|ip6|exists)([:/].*)?", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)", re.IGNORECASE)
_RESULTS = {"": "pass", "+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


@dataclass(frozen=True, slots=True)
class Spf:
    """``record``: None where there is none. ``other``: what becomes of mail from elsewhere.

    ``problem``: why receivers cannot use it (permerror). ``unknown``: what nobody could tell.
    """

    record: str | None
    lookups: int
    voids: int
    other: str
    problem: str
    unknown: str


class _PermError(Exception):
    """Section 2.6.7."""


class _TempError(Exception):
    """Section 2.6.6."""


class _Walk:
    def __init__(self) -> None:
        self.lookups = 0
        self.voids = 0
        self.other = "neutral"  # section 4.7

    def record(self, domain: str) -> Looking[str | None]:
        """Find the one record (section 4.5)."""
        found = yield Ask(domain, "TXT")
        self._known(found, domain)
        records = [each for each in found.records if _is_spf(each)]
        if len(records) > 1:
            raise _PermError(f"{domain} has {len(records)} SPF records, and may have one")
        return records[0] if records else None

    def follow(self, domain: str, record: str, *, first: bool) -> Looking[None]:
        """Take every term in turn."""
        redirect = ""
        for term in record.split()[1:]:
            if mechanism := _TERM.fullmatch(term):
                name = mechanism[2].lower()
                if name == "all":
                    if first:
                        self.other = _RESULTS[mechanism[1]]
                    return
                yield from self._mechanism(name, (mechanism[3] or ""), domain)
            elif modifier := _MODIFIER.fullmatch(term):
                if modifier[1].lower() == "redirect":
                    redirect = modifier[2]
            else:
                raise _PermError(f"the record of {domain} has a term that is none: {term[:60]!r}")
        if redirect:
            self._count()
            yield from self._below(redirect, first=first)

    def _mechanism(self, name: str, rest: str, domain: str) -> Looking[None]:
        if name in {"ip4", "ip6"}:
            return
        self._count()
        target = rest[1:].partition("/")[0] if rest.startswith(":") else domain
        if name in {"include", "exists"} and not rest.startswith(":"):
            raise _PermError(f"{name} names no domain")
        if "%" in target or name == "ptr":
            return
        if name == "include":
            yield from self._below(target, first=False)
            return
        found = yield Ask(target, "MX" if name == "mx" else "A")
        self._known(found, target)
        if name == "mx" and len(found.records) > MOST_MX:
            raise _PermError(f"{target} has more than {MOST_MX} names in MX")
        if name == "a" and not found.records:
            found = yield Ask(target, "AAAA")
            self._known(found, target)
        self._count_void(found)

    def _below(self, target: str, *, first: bool) -> Looking[None]:
        if "%" in target:
            return
        record = yield from self.record(target)
        if record is None:
            raise _PermError(f"{target} is included, and has no SPF record")
        yield from self.follow(target, record, first=first)

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > MOST:
            raise _PermError(f"it takes more than {MOST} look-ups")

    def _count_void(self, found: Found) -> None:
        self.voids += found.void
        if self.voids > MOST_VOID:
            raise _PermError(f"it takes more than {MOST_VOID} look-ups that find nothing")

    def _known(self, found: Found, name: str) -> None:
        if found.unknown:
            raise _TempError(f"{name}: {found.how.value}")


def check(domain: str) -> Generator[Ask, Found, Spf]:
    """Walk the whole record of a domain."""
    walk = _Walk()
    record, problem, unknown = None, "", ""
    try:
        record = yield from walk.record(domain)
        if record is not None:
            yield from walk.follow(domain, record, first=True)
    except _PermError as error:
        problem = str(error)
    except _TempError as error:
        unknown = str(error)
    return Spf(record, walk.lookups, walk.voids, walk.other, problem, unknown)


def _is_spf(text: str) -> bool:
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")
