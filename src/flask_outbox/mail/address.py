"""Addresses: parsed once, strictly, and written back the same way everywhere.

One addr-spec is accepted or refused; never split, repaired, or stripped of comments. What counts
as one is email-validator's answer in strict mode without DNS, with these choices of ours:

* Names that only mean something on a private network or in a test (``localhost``, ``x.test``,
  ``mail.local``, a bare host) are accepted: whether they can be reached is the relay's business.
* The local part keeps its case.
* Characters that would be *mapped* to others (full width forms, ligatures, the ideographic full
  stop) are refused rather than mapped, so that what was typed is what is written to.
"""

import re
import unicodedata
from dataclasses import dataclass

from flask_outbox.mail.errors import BadHeaderError, MessageError

# TAB is the one control character that RFC 5322 lets stand in a header's value. The others would
# end a line for some reader: NEL, LS and PS for str.splitlines, VT to RS for old parsers.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_ATEXT = r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]"
_LABEL = r"(?![a-zA-Z0-9][a-zA-Z0-9-]--)[a-zA-Z0-9](?>(?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)"
_PLAIN = re.compile(
    rf"(?=[^@]{{1,64}}@)({_ATEXT}++(?>(?:\.{_ATEXT}++)*))@({_LABEL}(?>(?:\.{_LABEL})*))",
)
_PLAIN_LONGEST = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets

_QUOTED_NAME = re.compile(r'"((?>(?:[^"\\]|\\.)*))"')
_ESCAPED = re.compile(r"\\(.)")
_NAME_NEEDS_QUOTES = re.compile(r'[()<>@,;:\\".\[\]]|^\s|\s$')
_NAME_IS_AMBIGUOUS = re.compile(r'[<>@,;:\\"]')

# Reserved names (RFC 6761 and others) that email-validator refuses and a private network may use.
_RESERVED = frozenset({"arpa", "invalid", "local", "localhost", "onion", "test"})


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox. ``addr`` is canonical: local part as given (NFC), domain as lower-case A-labels.

    Made by ``parse_address``; ``str()`` of it is a header's form, which parses to an equal one.
    """

    name: str
    addr: str

    def __str__(self) -> str:
        if not self.name:
            return self.addr
        if _NAME_NEEDS_QUOTES.search(self.name):
            name = self.name.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{name}" <{self.addr}>'
        return f"{self.name} <{self.addr}>"

    @property
    def utf8(self) -> bool:
        """Whether it takes SMTPUTF8 (RFC 6531) to write to it: its local part is not ASCII."""
        return not self.addr.isascii()

    @property
    def domain(self) -> str:
        """What stands behind the @, as A-labels."""
        return self.addr.rpartition("@")[2]

    @property
    def mixed_script(self) -> bool:
        """Whether a label of the domain mixes scripts that look alike: a flag, never a refusal."""
        return any(_mixes_scripts(label) for label in self.domain.split("."))


def refuse_control_characters(value: str, field: str) -> str:
    """Give the value back, or raise BadHeaderError naming the field: the one place for this.

    Raises for CR, LF, NUL and all other control characters but TAB, for the Unicode line and
    paragraph separators, and for lone surrogates.
    """
    try:
        if value.isprintable():  # a pass in C that nearly all values end with
            return value
    except AttributeError:
        raise MessageError(f"{field} must be str, not {type(value).__name__}") from None
    if found := _CONTROL.search(value):
        raise BadHeaderError(
            f"{field} contains the control character U+{ord(found[0]):04X}; remove it",
        )
    return value


def parse_address(value: str | tuple[str, str] | Address, field: str) -> Address:
    """Read ``addr``, ``Name <addr>`` or ``(name, addr)``; raise MessageError naming the field."""
    if type(value) is tuple and len(value) == 2:  # noqa: PLR2004  what most apps pass
        name, addr = _pair(value, field)
    elif isinstance(value, Address):
        name, addr = value.name, value.addr
    elif isinstance(value, str):
        name, addr = _split(refuse_control_characters(value, field).strip(" "), field)
    else:
        name, addr = _pair(value, field)
    return Address(name, _canonical(addr, field))


def _pair(value: object, field: str) -> tuple[str, str]:
    """Unpack (name, addr); lists too, since JSON has no tuples."""
    match value:
        case (str(name), str(addr)) if name.isprintable() and addr.isascii():
            return name.strip(), addr
        case (None | "", str(addr)):
            return "", refuse_control_characters(addr, field)
        case (str(name), str(addr)):
            refuse_control_characters(addr, field)
            return refuse_control_characters(name, field).replace("\t", " ").strip(), addr
        case _:
            raise MessageError(
                f"{field} must be 'addr', 'Name <addr>' or ('Name', 'addr'),"
                f" not {type(value).__name__}",
            )


def _split(text: str, field: str) -> tuple[str, str]:
    """Part ``Name <addr>``; text without angle brackets is all address."""
    if not text.endswith(">"):
        return "", text
    name, _, addr = text[:-1].rpartition("<")
    name = name.strip(" \t")
    if quoted := _QUOTED_NAME.fullmatch(name):
        return _ESCAPED.sub(r"\1", quoted[1]).replace("\t", " ").strip(), addr
    if _NAME_IS_AMBIGUOUS.search(name):
        raise MessageError(
            f"{field} has a name that could be read in more than one way;"
            " put the name in double quotes, or pass ('Name', 'addr')",
        )
    return name, addr


def _canonical(addr: str, field: str) -> str:
    """Check one addr-spec and give its canonical form."""
    if "=?" in addr:  # some readers, Python's among them, decode encoded words even in here
        raise BadHeaderError(f"{field} has an address that could be read as an encoded word")
    plain = _PLAIN.fullmatch(addr)
    if plain and len(addr) <= _PLAIN_LONGEST:
        local, domain = plain.groups()
        return f"{local}@{domain.lower()}"
    return _canonical_slowly(refuse_control_characters(addr, field), field)


def _canonical_slowly(addr: str, field: str) -> str:
    """Ask email-validator: for what is not plain ASCII, and for the reason of a refusal."""
    from email_validator import (  # noqa: PLC0415  20 ms that an app with plain addresses never pays
        EmailNotValidError,
        validate_email,
    )

    local, _, domain = addr.rpartition("@")
    stand_in, reserved = _without_reserved_name(domain)
    try:
        _refuse_what_would_be_mapped(local, domain)
        valid = validate_email(
            f"{local}@{stand_in}",
            strict=True,
            globally_deliverable=False,
            check_deliverability=False,
        )
    except (EmailNotValidError, UnicodeError) as error:
        # email-validator names characters, never the address; idna's texts quote a label.
        reason = str(error) if isinstance(error, EmailNotValidError) else "It is not valid Unicode."
        if error.__cause__ is not None:
            reason = "The part after the @-sign is not a valid internationalised domain name."
        raise MessageError(f"{field} is not an e-mail address: {reason}") from None
    canonical = valid.ascii_domain
    if reserved:
        canonical = canonical.removesuffix(canonical.rpartition(".")[2]) + reserved
    kept = unicodedata.normalize("NFC", local)
    return f"{kept}@{canonical}"


def _without_reserved_name(domain: str) -> tuple[str, str]:
    """Swap a reserved last label for one of the same length that email-validator has no view on."""
    stem, dot, last = domain.rpartition(".")
    if (reserved := last.lower()) in _RESERVED:
        return f"{stem}{dot}{'x' * len(last)}", reserved
    return domain, ""


def _refuse_what_would_be_mapped(local: str, domain: str) -> None:
    """Refuse look-alikes that normalisation would turn into other characters (UTS 46, NFKC)."""
    import idna  # noqa: PLC0415  only internationalised addresses come here
    from email_validator import EmailSyntaxError  # noqa: PLC0415

    if unicodedata.normalize("NFKC", local) != unicodedata.normalize("NFC", local):
        raise EmailSyntaxError("The part before the @-sign has characters in a compatibility form.")
    if domain.isascii():
        return
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    except idna.IDNAError:
        return  # email-validator says what is wrong with it
    if mapped != unicodedata.normalize("NFC", domain.lower()):
        raise EmailSyntaxError(
            "The part after the @-sign has characters that stand for others;"
            " write those others (a plain full stop, plain letters).",
        )


def _mixes_scripts(label: str) -> bool:
    """Tell whether a label has letters of more than one of Latin, Greek and Cyrillic."""
    if not label.startswith("xn--"):
        return False
    import idna  # noqa: PLC0415  only internationalised addresses come here

    scripts = {unicodedata.name(char, "").partition(" ")[0] for char in idna.decode(label)}
    return len(scripts & {"LATIN", "GREEK", "CYRILLIC"}) > 1
