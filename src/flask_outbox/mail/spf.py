"""What a domain's SPF record costs to look up: RFC 7208, walked as if no mechanism matched.

So all that a receiver may have to ask is counted: ten mechanisms that look something up (section
4.6.4), two of them in vain, one record, ten names of an ``mx``. A macro is counted and not
followed, since what it comes to is known when a mail arrives.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from flask_outbox.mail.lookup import Ask, Found, Looking

MOST, MOST_VOID, MOST_MX = 10, 2, 10  # RFC 7208 section 4.6.4

# Section 12, and of macros the letters that may stand in names (section 7.2).
_MACRO = r"(?:%\{[slodiphv](?:[1-9]\d*)?r?[-.+,/_=]*\}|%[%_-])"
_TEXT = rf"(?:[!-$&-~]|{_MACRO})*"
_TOP = r"(?!\d+(?![a-z\d-]))[a-z\d](?:[a-z\d-]*[a-z\d])?"
_NAME = rf"(?P<target>{_TEXT}(?:\.{_TOP}\.?|{_MACRO}))"
_LENGTH4 = r"(?:\d|[12]\d|3[0-2])"
_LENGTH6 = r"(?:\d|[1-9]\d|1[01]\d|12[0-8])"
_ARGUMENTS: Mapping[str, str] = {
    "all": "",
    "include": f":{_NAME}",
    "exists": f":{_NAME}",
    "a": f"(?::{_NAME})?(?:/{_LENGTH4})?(?://{_LENGTH6})?",
    "mx": f"(?::{_NAME})?(?:/{_LENGTH4})?(?://{_LENGTH6})?",
    "ptr": f"(?::{_NAME})?",
    "ip4": rf":(?P<target>[\d.]+)(?:/{_LENGTH4})?",
    "ip6": rf":(?P<target>[\da-f.:]+)(?:/{_LENGTH6})?",
}
_MODIFIERS: Mapping[str, str] = {"redirect": _NAME, "exp": _NAME}  # each once; others are unknown
_NETWORKS: Mapping[str, Callable[[str], object]] = {"ip4": IPv4Address, "ip6": IPv6Address}
_TERM = re.compile(r"([+?~-]?)([a-z\d]+)([:/].*)?", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z\d_.-]*)=(.*)", re.IGNORECASE)
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
        terms, redirect = _read(domain, record)
        for name, result, target in terms:
            if name == "all":
                if first:
                    self.other = result
                return
            yield from self._mechanism(name, target or domain)
        if redirect:
            self._count()
            yield from self._below(redirect, first=first)

    def _mechanism(self, name: str, target: str) -> Looking[None]:
        if name in _NETWORKS:
            return
        self._count()
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


def _read(domain: str, record: str) -> tuple[list[tuple[str, str, str]], str]:
    """Give each mechanism's name, result and target, and whereto the record redirects.

    What is wrong anywhere in it voids the whole (section 4.6).
    """
    terms: list[tuple[str, str, str]] = []
    modifiers: dict[str, str] = {}
    for text in filter(None, record.split(" ")[1:]):
        if term := _mechanism(text):
            terms.append(term)
        elif modifier := _modifier(text):
            if modifier[0] in modifiers and modifier[0] in _MODIFIERS:
                raise _PermError(f"the record of {domain} has {modifier[0]}= twice")
            modifiers[modifier[0]] = modifier[1]
        else:
            raise _PermError(f"the record of {domain} has a term that is none: {text[:60]!r}")
    return terms, modifiers.get("redirect", "")


def _mechanism(text: str) -> tuple[str, str, str] | None:
    found = _TERM.fullmatch(text)
    if found is None or (name := found[2].lower()) not in _ARGUMENTS:
        return None
    argument = _fits(_ARGUMENTS[name], found[3] or "")
    if argument is None:
        return None
    target = str(argument.groupdict().get("target") or "")
    try:
        _NETWORKS.get(name, str)(target)
    except ValueError:
        return None
    return name, _RESULTS[found[1]], target


def _modifier(text: str) -> tuple[str, str] | None:
    found = _MODIFIER.fullmatch(text)
    if found is None or not _fits(_MODIFIERS.get(name := found[1].lower(), _TEXT), found[2]):
        return None
    return name, found[2]


def _fits(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE)


def _is_spf(text: str) -> bool:
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")
