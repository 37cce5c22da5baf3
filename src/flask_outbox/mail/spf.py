"""What a domain's SPF record costs to look up: RFC 7208, walked as if no mechanism matched.

So all that a receiver may have to ask is counted: ten mechanisms that look something up (section
4.6.4), two of them in vain, one record, ten names of an ``mx``. A macro is counted and not
followed, since what it comes to is known when a mail arrives.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

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
_WIDE = re.compile(r"/0(?://\d+)?$")
_TERM = re.compile(r"([+?~-]?)([a-z\d]+)([:/].*)?", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z\d_.-]*)=(.*)", re.IGNORECASE)
_RESULTS = {"": "pass", "+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


@dataclass(frozen=True, slots=True)
class Spf:
    """``record``: None where there is none. ``other``: what becomes of mail from elsewhere.

    ``other`` is "" where a macro decides. ``everybody``: a term by which each address passes, of
    IPv4 or of IPv6, before ``other`` is come to. ``problem``: why receivers cannot use it
    (permerror). ``unknown``: what nobody could tell.
    """

    record: str | None
    lookups: int
    voids: int
    other: str
    everybody: str
    problem: str
    unknown: str


class _PermError(Exception):
    """Section 2.6.7."""


class _TempError(Exception):
    """Section 2.6.6."""


class _Term(NamedTuple):
    name: str
    result: str
    target: str
    text: str

    @property
    def is_wide(self) -> bool:
        """Whether it matches each address once it matches one."""
        return bool(_WIDE.search(self.text))


class _Verdict(NamedTuple):
    """What one record comes to; see Spf."""

    other: str = "neutral"  # section 4.7
    everybody: str = ""

    @property
    def lets_all_pass(self) -> bool:
        """Whether it gives a pass to each address, at least of one kind."""
        return self.other == "pass" or bool(self.everybody)


class _Walk:
    def __init__(self) -> None:
        self.lookups = 0
        self.voids = 0

    def record(self, domain: str) -> Looking[str | None]:
        """Find the one record (section 4.5)."""
        found = yield Ask(domain, "TXT")
        self._known(found, domain)
        records = [each for each in found.records if _is_spf(each)]
        if len(records) > 1:
            raise _PermError(f"{domain} has {len(records)} SPF records, and may have one")
        return records[0] if records else None

    def follow(self, domain: str, record: str) -> Looking[_Verdict]:
        """Take every term in turn."""
        everybody = ""
        terms, redirect = _read(domain, record)
        for term in terms:
            if term.name == "all":
                return _Verdict(term.result, everybody)
            matches_all = yield from self._mechanism(term, term.target or domain)
            if matches_all and term.result == "pass":
                everybody = everybody or term.text
        if not redirect:
            return _Verdict(everybody=everybody)
        self._count()
        if "%" in redirect:
            return _Verdict("", everybody)
        below = yield from self._below(redirect)
        return _Verdict(below.other, everybody or below.everybody)

    def _mechanism(self, term: _Term, target: str) -> Looking[bool]:
        """Look up what it asks for; tell whether it matches each address."""
        if term.name in _NETWORKS:
            return term.is_wide
        self._count()
        if "%" in target or term.name == "ptr":
            return False
        if term.name == "include":
            return (yield from self._below(target)).lets_all_pass
        found = yield Ask(target, "MX" if term.name == "mx" else "A")
        self._known(found, target)
        if term.name == "mx" and len(found.records) > MOST_MX:
            raise _PermError(f"{target} has more than {MOST_MX} names in MX")
        if term.name == "a" and not found.records:
            found = yield Ask(target, "AAAA")
            self._known(found, target)
        self._count_void(found)
        return term.is_wide

    def _below(self, target: str) -> Looking[_Verdict]:
        record = yield from self.record(target)
        if record is None:
            raise _PermError(f"{target} is included, and has no SPF record")
        return (yield from self.follow(target, record))

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
    verdict = _Verdict()
    try:
        record = yield from walk.record(domain)
        if record is not None:
            verdict = yield from walk.follow(domain, record)
    except _PermError as error:
        problem = str(error)
    except _TempError as error:
        unknown = str(error)
    return Spf(record, walk.lookups, walk.voids, *verdict, problem, unknown)


def _read(domain: str, record: str) -> tuple[list[_Term], str]:
    """Give each mechanism, and whereto the record redirects.

    What is wrong anywhere in it voids the whole (section 4.6).
    """
    terms: list[_Term] = []
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


def _mechanism(text: str) -> _Term | None:
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
    return _Term(name, _RESULTS[found[1]], target, text)


def _modifier(text: str) -> tuple[str, str] | None:
    found = _MODIFIER.fullmatch(text)
    if found is None or not _fits(_MODIFIERS.get(name := found[1].lower(), _TEXT), found[2]):
        return None
    return name, found[2]


def _fits(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, text, re.ASCII | re.IGNORECASE)


def _is_spf(text: str) -> bool:
    return text.lower() == "v=spf1" or text.lower().startswith("v=spf1 ")
