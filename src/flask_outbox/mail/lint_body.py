"""The linter's rules on what a mail is made of: subject, text, HTML, images, list headers."""

import re
from collections.abc import Iterator

from flask_outbox.mail.lint_letter import LONGEST, Letter

# What lists of mails show of a subject, roughly: mail programs on a desktop 60 to 75 letters.
LONGEST_SUBJECT = 70
# Where Gmail clips the HTML, in octets; told by many senders, promised by no page of Google's
# (spamresource.com, "What is Gmail clipping and what to do about it", read 2026-11-29).
CLIPPED = 102 * 1024
ICON = 48  # pixels: an image with a shorter side is no picture
_LETTERS_AT_LEAST = 200  # beside pictures; SpamAssassin's HTML_IMAGE_ONLY_* begin to rise below 400
_LETTERS_A_PICTURE = 40
_WORTH_COMPARING = 200  # letters of HTML
_TEXT_TO_HTML = 10  # the text part may be so much shorter

_LIST_HEADERS = ("list-id", "list-post", "list-help", "list-subscribe", "list-owner")
_BULK = frozenset({"bulk", "list"})
_WORDS = (
    r"(?:unsubscribe|opt[ -]?out|abmelden|abbestellen|désinscri|désabonn|darse de baja"
    r"|cancelar (?:la )?suscripción|disiscri|annulla (?:l')?iscrizione|afmelden|uitschrijven"
    r"|cancelar inscrição)(?!d)"  # who has unsubscribed is told so in no list mail
)
_UNSUBSCRIBE = re.compile(_WORDS, re.IGNORECASE)
# In a text: the word, and an address in the same sentence, in its line or below.
_UNSUBSCRIBE_AT = re.compile(
    _WORDS + r"[^\n.!?]{0,60}(?:\n{1,2}[^\n.!?]{0,20})?\bhttps?://", re.IGNORECASE
)
_LEADS_OUT = re.compile(
    r"https?://[^\s<>\"']{1,300}?[/?&=](?:unsubscribe|opt-?out)(?![a-z])", re.IGNORECASE
)


def subject(letter: Letter) -> Iterator[str]:
    """Say of a subject that it is missing or too long."""
    found = letter.header("subject").strip()
    if not found:
        yield "There is no subject; write one, since it is what people decide by."
    elif len(found) > LONGEST_SUBJECT:
        yield (
            f"The subject has {len(found)} letters and is cut in lists of mails; put what matters"
            f" into the first {LONGEST_SUBJECT}."
        )


def no_text(letter: Letter) -> Iterator[str]:
    """Say that there is nothing for readers without HTML."""
    if letter.text is not None and letter.text.strip():
        return
    if letter.html_size is None:
        yield "There is nothing to read, neither text nor HTML; give the message a body."
    else:
        yield (
            "There is no text part, so some people see nothing and filters grow suspicious; give"
            " the message a body, or set MAIL_TEXT_FROM_HTML."
        )


def text_differs(letter: Letter) -> Iterator[str]:
    """Say that the text part is only an excuse for one."""
    text, html = _count(letter.text or ""), _count(letter.page.text)
    if text and html >= _WORTH_COMPARING and text * _TEXT_TO_HTML < html:
        yield (
            f"The text part has {text} letters and the HTML {html}; say the same in both, or leave"
            " the text to MAIL_TEXT_FROM_HTML."
        )


def html_size(letter: Letter) -> Iterator[str]:
    """Say that Gmail will not show all of it."""
    size = letter.html_size or 0
    if size > CLIPPED:
        yield (
            f"The HTML has {size / 1024:.0f} KB; Gmail clips it after {CLIPPED // 1024} KB, and"
            " what is at the end with it. Shorten it, and move styles and data: images out of it."
        )


def image_alt(letter: Letter) -> Iterator[str]:
    """Say that images say nothing to who does not see them; ``alt=""`` is for ornaments."""
    silent = [image for image in letter.page.images if image.alt is None]
    if silent:
        yield (
            f"{len(silent)} of {len(letter.page.images)} images have no alt, the first in line"
            f' {silent[0].line} of the HTML; say what it shows, or alt="" for an ornament.'
        )


def image_balance(letter: Letter) -> Iterator[str]:
    """Say that it is all pictures: that is how text is hidden from filters."""
    pictures = sum(image.side is None or image.side > ICON for image in letter.page.images)
    letters = _count(letter.page.text)
    wanted = max(_LETTERS_AT_LEAST, _LETTERS_A_PICTURE * pictures)
    if pictures and letters < wanted:
        yield (
            f"The HTML has {letters} letters beside pictures ({pictures}), which looks like text"
            f" hidden in images; write what they say as text, {wanted} letters or more."
        )


def list_unsubscribe(letter: Letter) -> Iterator[str]:
    """Say of list mail that nobody can leave by a button (RFC 2369)."""
    if letter.header("list-unsubscribe"):
        return
    if why := _is_list_mail(letter):
        yield (
            f"It is list mail ({why}) without List-Unsubscribe, which mailbox providers ask for;"
            " set list_unsubscribe= and list_unsubscribe_post= on the message."
        )


def one_click(letter: Letter) -> Iterator[str]:
    """Say that its unsubscribing takes more than one click (RFC 8058)."""
    target = letter.header("list-unsubscribe")
    if not target:
        return
    if "<https:" not in target.lower():
        yield (
            "List-Unsubscribe has no https address, so unsubscribing takes more than one click;"
            " add one to list_unsubscribe=."
        )
    elif letter.header("list-unsubscribe-post").strip().lower() != "list-unsubscribe=one-click":
        yield (
            "List-Unsubscribe is without List-Unsubscribe-Post, which Gmail and Yahoo ask of list"
            " mail; set list_unsubscribe_post=True."
        )


def not_read(letter: Letter) -> Iterator[str]:
    """Say that the end of something was not looked at."""
    if letter.cut:
        yield f"A text is very long; its first {LONGEST:,} letters were looked at."


def _is_list_mail(letter: Letter) -> str:
    for name in _LIST_HEADERS:
        if letter.header(name):
            return f"it has {name.title().replace('Id', 'ID')}"
    if letter.header("precedence").strip().lower() in _BULK:
        return "it has Precedence"
    text = letter.text or ""
    if (
        any(_UNSUBSCRIBE.search(each.text) for each in letter.page.links)
        or any(_LEADS_OUT.match(each.target) for each in letter.page.links)
        or _LEADS_OUT.search(text)
        or _UNSUBSCRIBE_AT.search(text)
    ):
        return "it has a link to unsubscribe"
    return ""


def _count(text: str) -> int:
    """Count letters, white space aside."""
    return len("".join(text.split()))
