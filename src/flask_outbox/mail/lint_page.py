"""What the linter sees of HTML: its links, its images, its text.

Read by a scanner of our own, in time linear in the length: Python's parser takes minutes for
some 100 KB that are broken on purpose. What is no tag any more is the end of what is read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape

# A tag as the HTML standard reads it (section 13.2.5): quotes count only after an equals sign.
_VALUE = r"""(?:"[^"]*+"|'[^']*+'|(?!["'])[^\s>]++)"""
_ATTRIBUTE = rf"[^\s/>=][^\s/>=]*+(?:\s*+=\s*+{_VALUE})?"
_TAG = re.compile(rf"<(/?)([a-zA-Z][^\s/>]*+)((?>(?:[\s/]++|{_ATTRIBUTE}|=)*))>")
_NAMED = re.compile(rf"([^\s/>=][^\s/>=]*+)(?:\s*+=\s*+({_VALUE}))?")
_TAG_BEGINS = re.compile("</?[a-zA-Z]")
_TAG_ENDS = re.compile(">")
_COMMENT_ENDS = re.compile("-->")
_RAW = {  # what stands in these is no HTML, and not shown
    name: re.compile(rf"</{name}[\s/>]", re.IGNORECASE) for name in ("script", "style", "title")
}
_CELLS = frozenset({"td", "th"})
_LINES = frozenset(
    {
        *("br", "dd", "div", "dt", "figcaption", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li"),
        *("ol", "p", "pre", "table", "tr", "ul"),
    },
)
_SPACE = re.compile(r"[ \r\n\f\v]+")


@dataclass(frozen=True, slots=True)
class Link:
    """Where it leads, what it shows, and in which line of the HTML it begins."""

    target: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Image:
    """``alt`` is None where there is none; ``side``: the shortest side it is given, in pixels."""

    alt: str | None
    side: int | None
    line: int


@dataclass(frozen=True, slots=True)
class Page:
    """``text``: as it is read: a line for a line, a TAB between the cells of a table."""

    links: tuple[Link, ...] = ()
    images: tuple[Image, ...] = ()
    text: str = field(default="", repr=False)


def page_of(html: str) -> Page:
    """Read it."""
    reader = _Reader()
    line, counted = 1, 0
    for at, tag, attributes, text in _tokens(html):
        line, counted = line + html.count("\n", counted, at), at
        reader.see(tag, attributes, text, line)
    reader.end_link()
    return Page(tuple(reader.links), tuple(reader.images), "".join(reader.text).strip())


class _Reader:
    """Collects; a link ends with its end tag, or where the next begins."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.images: list[Image] = []
        self.text: list[str] = []
        self.open: tuple[str, int, int] | None = None  # target, line, where its text begins

    def see(self, tag: str, attributes: str, text: str, line: int) -> None:
        if not tag:
            self.text.append(_SPACE.sub(" ", unescape(text)))
        elif tag == "a":
            self.end_link()
            target = _named(attributes).get("href")
            self.open = None if target is None else (target.strip(), line, len(self.text))
        elif tag == "/a":
            self.end_link()
        elif tag == "img":
            given = _named(attributes)
            self.images.append(Image(given.get("alt"), _side(given), line))
        elif tag in _CELLS:
            self.text.append("\t")
        elif tag.removeprefix("/") in _LINES:
            self.text.append("\n")

    def end_link(self) -> None:
        if self.open is not None:
            target, line, since = self.open
            self.links.append(Link(target, "".join(self.text[since:]).strip(), line))
        self.open = None


def _tokens(html: str) -> Iterator[tuple[int, str, str, str]]:
    """Give place, tag and attributes, or place and text; an end tag begins with a slash."""
    at = 0
    while (found := html.find("<", at)) >= 0:
        if found > at:
            yield at, "", "", html[at:found]
        if _TAG_BEGINS.match(html, found):
            tag = _TAG.match(html, found)
            if tag is None:
                return
            name = tag[2].lower()
            yield found, tag[1] + name, tag[3], ""
            at = tag.end()
            if not tag[1] and name in _RAW:
                at = _past(html, _RAW[name], at)
        elif html.startswith("<!--", found):
            at = _past(html, _COMMENT_ENDS, found + 4)
        elif html.startswith(("<!", "<?", "</"), found):
            at = _past(html, _TAG_ENDS, found)
        else:
            yield found, "", "", "<"
            at = found + 1
    if at < len(html):
        yield at, "", "", html[at:]


def _past(html: str, what: re.Pattern[str], at: int) -> int:
    """Give where the first of it ends; the end of all where there is none."""
    found = what.search(html, at)
    return len(html) if found is None else found.end()


def _named(attributes: str) -> dict[str, str]:
    """Give the first of each name."""
    given: dict[str, str] = {}
    for name, value in _NAMED.findall(attributes):
        bare = value[1:-1] if value[:1] in {'"', "'"} else value
        given.setdefault(name.lower(), unescape(bare))
    return given


def _side(given: dict[str, str]) -> int | None:
    sides = [given.get(name, "").strip().removesuffix("px") for name in ("width", "height")]
    return min((int(each) for each in sides if each.isdecimal() and len(each) < 6), default=None)  # noqa: PLR2004  a screen's
