"""The linter's rule on passwords that a mail states, and on telling them from talk of passwords.

What is found is not quoted, not even in part. Reset links and one-time codes are what mail is
for, and are left alone.
"""

import re
from collections.abc import Iterator

from flask_outbox.mail.lint_letter import Letter

_WORD = (
    "(?:password|passwd|pwd|passphrase|passwort|kennwort|mot de passe|contraseña|wachtwoord|senha"
    "|lösenord)"
)
_VERB = "(?:is|ist|lautet|est|es|è|é|är)"
_QUOTES = "\"'`\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e"
# The word, a sign or a verb or both, and what may be it: in the same line, or in the next.
_STATED = re.compile(
    rf"\b{_WORD}\b[ \xa0]*+(?:(?P<verb>{_VERB})\b[ \xa0]*+)?(?P<sign>[:=\t]|(?(verb)))"
    rf"[ \t\xa0]*+(?:\n\s*+)?[{_QUOTES}]?+(?P<value>\S++)(?P<rest>[^\n]*+)",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"://[^/\s:@?#]*+:[^/\s@?#]++@")

_AROUND = 40  # letters before it that say what is meant
_NO_LEAK = re.compile(
    r"reset|chang|forg[eo]t|choos|creat|updat|recover|one[- ]time|einmal|usage unique|un solo uso"
    r"|vergessen|ändern|zurücksetz|oublié|olvid",
    re.IGNORECASE,
)
_ABOUT_IT = frozenset({"required", "hidden", "unchanged", "expired", "invalid", "optional", "none"})
_MASKED = re.compile(r"[*•●·.…_xX]+|[\[({<%$]+.*")  # stars, or a template's placeholder
_SHORTEST, _LONGEST = 4, 128  # letters


def password(letter: Letter) -> Iterator[str]:
    """Say where a password stands in clear."""
    for name, text in letter.texts():
        if _IN_ADDRESS.search(text):
            yield f"{name} has an address with a password in it; take it out, and change it."
        if any(_is_leak(found) for found in _STATED.finditer(text)):
            yield (
                f"{name} states what looks like a password; mail a link instead, by which to set"
                " one, that works once and not for long."
            )
    if any(_IN_ADDRESS.search(link.target) for link in letter.page.links):
        yield "A link in the HTML has a password in it; take it out, and change it."


def _is_leak(found: re.Match[str]) -> bool:
    """Tell a password from a sentence about passwords."""
    start = found.start()
    before = found.string[max(0, start - _AROUND) : start].rpartition("\n")[2]
    value = found["value"].rstrip(f"{_QUOTES}.,;:!?)")
    if not _SHORTEST <= len(value) <= _LONGEST or value.lower() in _ABOUT_IT:
        return False
    if "://" in value or value.startswith(("www.", "/", "~")) or _MASKED.fullmatch(value):
        return False
    if _NO_LEAK.search(before) or _NO_LEAK.search(value):
        return False
    stands_alone = not found["rest"].strip(f"{_QUOTES}. \t\xa0")
    return (found["sign"] in {":", "="} and stands_alone) or _is_no_word(value)


def _is_no_word(value: str) -> bool:
    """Tell what has digits or signs or capitals among its letters from words."""
    letters = value.replace("-", "").replace("'", "").replace("\u2019", "").replace("/", "")
    has_letter = any(map(str.isalpha, letters))
    has_capital_within = letters != letters.upper() and letters[1:] != letters[1:].lower()
    return has_letter and (not letters.isalpha() or has_capital_within)
