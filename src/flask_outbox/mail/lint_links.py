"""The linter's rules on links: what they lead to, and what they say they lead to.

What an app writes is looked at, before any provider rewrites links in order to count clicks.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from flask_outbox.mail.address import Address
from flask_outbox.mail.lint_letter import Letter
from flask_outbox.mail.lint_page import Link

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*+):")
_IGNORED = re.compile("[\t\r\n]")  # browsers do, within a URL
_WEB = frozenset({"http", "https"})
_DEAD = frozenset({"javascript", "vbscript", "data", "file", "blob", "about"})
_AUTHORITY = re.compile(r"https?:[/\\]{2}([^/\\?#\s]*+)", re.IGNORECASE)
_IN_TEXT = re.compile(r"\bhttp://([^/?#\s<>\"']++)", re.IGNORECASE)

# What in a link's text is read as the name of a host: with a scheme or www. wherever it stands,
# else only what ends like a domain's name, so that "Node.js" is none: all the text, but for signs
# around it, or a word of it in small letters, so that "ASP.NET" and "books.It" are none.
_SHOWN = re.compile(r"(?:https?://|\b(?=www\.))([^\s/\\?#<>\"'()\[\],;]++)", re.IGNORECASE)
_ALL_HOST = re.compile(r"((?:[^\W_](?:[\w-]*[^\W_])?\.)+[^\W\d_]{2,24})(?::\d+)?(?:/\S*)?")
_WORD = re.compile(
    r"(?<![\w@./-])((?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,24})(?![\w@-]|\.\w)"
)
# Around it: brackets, quotes, the ends of sentences, and what leads the eye there.
_SIGNS = (
    " \t\n\xa0.,;:!?()[]<>\"'*-\u2013\u2014\u2022\u2026\u2190\u2192\u203a\u00ab\u00bb\u25b6\u25ba"
)
_ENDINGS = frozenset(
    {
        *("com", "org", "net", "info", "biz", "edu", "gov", "mil", "int", "name", "pro", "eu"),
        *("app", "blog", "cloud", "dev", "email", "live", "news", "online", "shop", "site"),
        *("store", "tech", "xyz", "bank", "club", "top", "example", "test", "localhost"),
    },
)
_FILE_ENDINGS = frozenset({"cs", "gz", "js", "md", "pl", "ps", "py", "rb", "rs", "sh", "ts", "xz"})
_COUNTRY = 2  # letters of a country's ending
# Below a country's ending these are no names of somebody's: example.co.uk.
_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "gob", "gov", "gouv", "govt", "ltd", "mil", "ne", "net", "nom"}
    | {"or", "org", "plc", "sch"},
)
_PLAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ADDRESS = re.compile(r"[0-9.]{1,15}|\[[0-9a-fA-F:.]{2,45}\]")
_LONGEST = 253  # letters of a host's name (RFC 1035 section 2.3.4, less the length octets)


def without_https(letter: Letter) -> Iterator[str]:
    """Say which links anybody on the way can read and change."""
    plain = [link for link in letter.page.links if _scheme(link.target) == "http"]
    if plain:
        yield (
            f"{_links(plain)} begin{'s' if len(plain) == 1 else ''} with http:, the first in line"
            f" {plain[0].line} of the HTML, to {_host(plain[0].target) or 'no host'}; write https:."
        )
    elif found := _IN_TEXT.search(letter.text or ""):
        line = (letter.text or "").count("\n", 0, found.start()) + 1
        yield f"The text has a link that begins with http:, in line {line}; write https:."


def dead(letter: Letter) -> Iterator[str]:
    """Say which links lead nowhere from a mailbox."""
    relative: list[Link] = []
    for link in letter.page.links:
        scheme = _scheme(link.target)
        if scheme in _DEAD:
            yield (
                f"A link in line {link.line} of the HTML begins with {scheme}:, which mail programs"
                " take out; link to a page of yours."
            )
        elif not _leads_somewhere(link.target, scheme):
            relative.append(link)
    if relative:
        yield (
            f"{_links(relative)} without a scheme and a host, the first in line {relative[0].line}"
            " of the HTML, lead nowhere from a mailbox; write out the whole address"
            " (url_for with _external=True)."
        )


def other_host(letter: Letter) -> Iterator[str]:
    """Say which links show one host and lead to another: so does phishing."""
    for link in letter.page.links:
        actual = _host(link.target)
        if not actual:
            continue
        if "@" in _authority(link.target):
            yield (
                f"A link in line {link.line} of the HTML has something and an @ before its host,"
                f" {actual}, as if it led elsewhere; take that out."
            )
        for shown in _shown(link.text):
            if _owner(shown) != _owner(actual):
                yield (
                    f"A link in line {link.line} of the HTML shows {shown} and leads to {actual},"
                    " as in phishing; let it show where it leads, or words."
                )
                break


def look_alike(letter: Letter) -> Iterator[str]:
    """Say which hosts are written in letters that look like others."""
    told: set[str] = set()
    for link in letter.page.links:
        for host in (_host(link.target), *_shown(link.text)):
            if host not in told and _mixes_scripts(host):
                told.add(host)
                yield (
                    f"A link in line {link.line} of the HTML names {host}, which mixes letters of"
                    " scripts that look alike; check that it is the host that you mean."
                )


def _leads_somewhere(target: str, scheme: str) -> bool:
    """Tell a whole address, of any kind, or a place in the mail itself."""
    if scheme in _WEB:
        return bool(_authority(target))
    return bool(scheme) or target.startswith("#")


def _links(links: Sequence[Link]) -> str:
    return "A link" if len(links) == 1 else f"{len(links)} links"


def _scheme(target: str) -> str:
    found = _SCHEME.match(_IGNORED.sub("", target))
    return found[1].lower() if found else ""


def _authority(target: str) -> str:
    found = _AUTHORITY.match(_IGNORED.sub("", target))
    return found[1] if found else ""


def _host(target: str) -> str:
    """Give the host that a web address leads to, as A-labels; nothing for another address."""
    return _name(_authority(target).rpartition("@")[2])


def _shown(text: str) -> list[str]:
    """Give the hosts that a link's text shows."""
    found: list[str] = _SHOWN.findall(text)
    if not found and len(text) < _LONGEST:
        whole = _ALL_HOST.fullmatch(text.strip(_SIGNS))
        words: list[str] = [whole[1]] if whole else _WORD.findall(text)
        found = list(filter(_ends_like_one, words))
    names = [_name(each.rpartition("@")[2]) for each in found]
    return [each for each in names if "." in each]


def _ends_like_one(host: str) -> bool:
    """Tell the name of a host from other words with a point in them."""
    ending = host.rpartition(".")[2].lower()
    is_country = len(ending) == _COUNTRY and ending not in _FILE_ENDINGS
    return is_country or ending in _ENDINGS or not ending.isascii()


@lru_cache(maxsize=256)
def _name(host: str) -> str:
    """Write a host as A-labels, without port and final dot; nothing for what is none."""
    if _ADDRESS.fullmatch(host):
        return host
    bare = host.partition(":")[0].rstrip(".").lower()
    if len(bare) > _LONGEST:
        return ""
    if bare.isascii():
        return bare if _PLAIN.fullmatch(bare) else ""
    import idna  # noqa: PLC0415  only internationalised hosts come here

    try:
        return idna.encode(bare, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return ""


def _owner(host: str) -> str:
    """Give the part that somebody has registered, as far as it shows; www. is not told apart."""
    if _ADDRESS.fullmatch(host):
        return host
    labels = host.split(".")
    public = len(labels[-1]) == _COUNTRY and labels[-2:-1] and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3 if public else -2 :])


def _mixes_scripts(host: str) -> bool:
    import idna  # noqa: PLC0415  as above

    try:
        return "xn--" in host and Address("", f"@{host}").mixed_script
    except (idna.IDNAError, UnicodeError):
        return False
