"""Text made from HTML: links keep their targets, lists and tables their shape."""

import re
from html import unescape
from html.parser import HTMLParser

_SPACE = re.compile(r"[ \t\r\n\f\v]+")
_DROPPED = frozenset({"head", "noscript", "script", "style", "svg", "template", "title"})
_PARAGRAPHS = frozenset(
    {
        *("address", "article", "aside", "blockquote", "dl", "fieldset", "figure", "footer"),
        *("form", "header", "main", "nav", "ol", "p", "pre", "section", "table", "ul"),
    },
)
_LINES = frozenset({"body", "caption", "dd", "div", "dt", "figcaption", "li", "tr"})
_HEADINGS = {"h1": "=", "h2": "-"}
_ALL_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_VOID = frozenset({"br", "hr", "img"})
_RULE = "-" * 40
_TAG = re.compile("<[^<>]*+>?")
_STRAY = 100  # more than this many tags left open, and it is no HTML worth reading closely


def text_of(html: str) -> str:
    """Make readable text: headings underlined, list items marked, cells parted by ``|``.

    A link's target follows its text in angle brackets, unless the text is the target.
    """
    if html.count("<") - html.count(">") > _STRAY:
        # Python's parser takes minutes for some 100 KB of tags that are never closed.
        return unescape(_SPACE.sub(" ", _TAG.sub(" ", html))).strip() + "\n"
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Collects lines; whatever is unbalanced in the HTML only costs a line break."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = []
        self.line = ""
        self.gap = 0  # empty lines wanted before the next text
        self.dropped: list[str] = []
        self.lists: list[int | None] = []  # the number of the next item; None where unnumbered
        self.links: list[tuple[str, int, int]] = []  # target; where its text began: line, column
        self.marker = ""  # of the latest list item
        self.cells = 0
        self.pre = 0

    def text(self) -> str:
        """Give what was collected."""
        self._end_line()
        body = "\n".join(line.rstrip() for line in self.lines).strip("\n")
        return f"{body}\n" if body else ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open what the tag means."""
        given = {name: value or "" for name, value in attrs}
        if self.dropped or tag in _DROPPED:
            if tag in _DROPPED:
                self.dropped.append(tag)
            return
        if _is_hidden(given):
            if tag not in _VOID:
                self.dropped.append(tag)
            return
        if tag in _ALL_HEADINGS or tag in _PARAGRAPHS:
            self._paragraph(nested=tag in {"ul", "ol"} and bool(self.lists))
        elif tag in _LINES:
            self._end_line()
        self._open(tag, given)

    def _open(self, tag: str, given: dict[str, str]) -> None:
        match tag:
            case "a":
                # A link holds no other; where the HTML says so, the inner one is it.
                here = (given.get("href", "").strip(), len(self.lines), len(self.line))
                self.links = [here]
            case "ul":
                self.lists.append(None)
            case "ol":
                self.lists.append(int(given["start"]) if given.get("start", "").isdecimal() else 1)
            case "li":
                self._item()
            case "tr":
                self.cells = 0
            case "td" | "th":
                self._cell()
            case "pre":
                self.pre += 1
            case _:
                self._open_void(tag, given)

    def _open_void(self, tag: str, given: dict[str, str]) -> None:
        match tag:
            case "br":
                self._end_line(even_if_empty=True)
            case "hr":
                self._paragraph()
                self._add(_RULE)
                self._paragraph()
            case "img":
                self._add(given.get("alt", "").strip())
            case _:
                pass

    def _cell(self) -> None:
        if self.cells and self.line.strip():
            self.line = self.line.rstrip() + " | "
        self.cells += 1

    def handle_endtag(self, tag: str) -> None:
        """Close what the tag means."""
        if self.dropped:
            if tag == self.dropped[-1]:
                self.dropped.pop()
            return
        match tag:
            case "a" if self.links:
                self._link(*self.links.pop())
            case "ul" | "ol" if self.lists:
                self.lists.pop()
            case "pre" if self.pre:
                self.pre -= 1
            case _ if tag in _HEADINGS and self.line.strip():
                width = len(self.line.strip())
                self._end_line()
                self.lines.append(_HEADINGS[tag] * min(width, len(_RULE)))
            case _:
                pass
        if tag in _ALL_HEADINGS or tag in _PARAGRAPHS:
            self._paragraph(nested=tag in {"ul", "ol"} and bool(self.lists))
        elif tag in _LINES:
            self._end_line()

    def handle_data(self, data: str) -> None:
        """Add text, its white space collapsed except in ``pre``."""
        if self.dropped:
            return
        if self.pre:
            first, *rest = data.split("\n")
            self._add(first)
            for line in rest:
                self._end_line(even_if_empty=True)
                self._add(line)
            return
        text = _SPACE.sub(" ", data)
        if not self.line or self.line.endswith(" "):
            text = text.lstrip(" ")
        self._add(text)

    def _add(self, text: str) -> None:
        if not text:
            return
        if self.gap and text.strip():
            if self.lines:
                self.lines.extend([""] * self.gap)
            self.gap = 0
        self.line += text

    def _end_line(self, *, even_if_empty: bool = False) -> None:
        if self.line.strip() or (even_if_empty and self.lines and not self.gap):
            self.lines.append(self.line)
        self.line = ""

    def _paragraph(self, *, nested: bool = False) -> None:
        if self.line and self.line == self.marker:
            return  # the paragraph is what the item holds
        self._end_line()
        if not nested:
            self.gap = 1

    def _item(self) -> None:
        depth = max(len(self.lists) - 1, 0)
        number = self.lists[-1] if self.lists else None
        if number is None:
            self.marker = "  " * depth + "* "
        else:
            self.lists[-1] = number + 1
            self.marker = "  " * depth + f"{number}. "
        self._add(self.marker)

    def _link(self, target: str, line: int, column: int) -> None:
        """Put the target behind the text, where it says more than the text."""
        since = " ".join([*self.lines[line:], self.line]) if len(self.lines) > line else self.line
        shown = since[column:].strip() if len(self.lines) == line else since.strip()
        bare = target.removeprefix("mailto:").removeprefix("tel:")
        if (
            not target
            or target.startswith(("#", "javascript:", "data:"))
            or shown in {target, bare}
        ):
            return
        self._add(f"{' ' if self.line and not self.line.endswith(' ') else ''}<{target}>")


def _is_hidden(attrs: dict[str, str]) -> bool:
    style = attrs.get("style", "").replace(" ", "").lower()
    return "hidden" in attrs or "display:none" in style
