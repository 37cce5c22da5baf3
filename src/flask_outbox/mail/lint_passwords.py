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
_SHORTEST, _LONGEST = 4, 128  # letters
_VALUE = rf"[{_QUOTES}]?+(?P<value>\S{{1,{_LONGEST + 9}}}+)"  # with signs after it
# The word, a sign or a verb or both or a space, and what may be it: in the same line, or in the
# next. It is looked at and not taken, since it may be a word before the next password.
_STATED = re.compile(
    rf"\b{_WORD}\b[ \xa0]*+(?:(?P<verb>{_VERB})\b[ \xa0]*+)?"
    r"(?P<sign>[:=\t]|(?(verb)|(?<=[ \xa0])(?=\w)))[ \t\xa0]*+(?:\n\s*+)?"
    rf"(?={_VALUE}(?P<alone>[{_QUOTES}. \t\xa0]*+$)?)",
    re.IGNORECASE | re.MULTILINE,
)
_SET = "(?:(?:re)?set|changed?|updated)"
_GESETZT = "(?:(?:zurück)?gesetzt|geändert)"
_WORDS = r"(?:\w{1,20}+ ){0,3}"
_SET_TO = re.compile(
    rf"(?:\b{_SET} {_WORDS}{_WORD} to|\b{_WORD} (?:{_WORDS}{_SET} to"
    rf"|(?:{_WORDS}{_GESETZT} (?:auf|in|zu)|wurde auf)(?= \S*\d))):? {_VALUE}",
    re.IGNORECASE,
)
_IN_ADDRESS = re.compile(r"://[^/\s:@?#]*+:[^/\s@?#]++@")

_AROUND = 40  # letters before it, in its sentence, that say what is meant
_SENTENCE_ENDS = re.compile(r"[.!?][ \xa0]|\n")
_ONCE = re.compile("one[- ]time|einmal|usage unique|un solo uso", re.IGNORECASE)
# Who is asked to do it, is told no password; what has been created or changed may be told with it.
_ASKED = re.compile(
    "reset|chang(?!ed)|forg[eo]t|choos|creat(?!ed)|updat(?!ed)|recover"
    "|vergessen|ändern|zurücksetz|wähl|oublié|olvid",
    re.IGNORECASE,
)
_ABOUT_IT = frozenset(
    {
        *("required", "hidden", "unchanged", "expired", "invalid", "optional", "none"),
        *("changed", "created", "updated", "geändert", "unverändert", "erforderlich"),
    },
)
_MASKED = re.compile(r"[*•●·.…_xX]+|[\[({<%$]+.*")  # stars, or a template's placeholder


def password(letter: Letter) -> Iterator[str]:
    """Say where a password stands in clear."""
    for name, text in letter.texts():
        if _IN_ADDRESS.search(text):
            yield f"{name} has an address with a password in it; take it out, and change it."
        stated = map(_is_leak, _STATED.finditer(text))
        if any(stated) or any(map(_is_set, _SET_TO.finditer(text))):
            yield (
                f"{name} states what looks like a password; mail a link instead, by which to set"
                " one, that works once and not for long."
            )
    if any(_IN_ADDRESS.search(link.target) for link in letter.page.links):
        yield "A link in the HTML has a password in it; take it out, and change it."


def _is_leak(found: re.Match[str]) -> bool:
    """Tell a password from a sentence about passwords."""
    before, value = _before(found), _value(found)
    if _ASKED.search(before) or _ONCE.search(before) or not _may_be(value):
        return False
    is_alone = found["sign"] in {":", "="} and found["alone"] is not None
    return is_alone or _is_no_word(value)


def _is_set(found: re.Match[str]) -> bool:
    """Tell what a password was set to from why it was, and from the host where it was."""
    value = _value(found)
    is_told = _may_be(value) and _is_no_word(value) and "." not in value
    return is_told and not _ONCE.search(_before(found) + found[0])


def _before(found: re.Match[str]) -> str:
    """Give what stands before it in its sentence."""
    start = found.start()
    return _SENTENCE_ENDS.split(found.string[max(0, start - _AROUND) : start])[-1]


def _value(found: re.Match[str]) -> str:
    """Give it without the signs that end a sentence."""
    return found["value"].rstrip(f"{_QUOTES}.,;:!?)")


def _may_be(value: str) -> bool:
    """Leave out what is too short or long for one, a place, a blank, or a word about one."""
    if not _SHORTEST <= len(value) <= _LONGEST or value.lower() in _ABOUT_IT:
        return False
    if "://" in value or value.startswith(("www.", "/", "~")) or _MASKED.fullmatch(value):
        return False
    return not (_ASKED.search(value) or _ONCE.search(value))


def _is_no_word(value: str) -> bool:
    """Tell what has digits or signs or capitals among its letters from words."""
    letters = value.replace("-", "").replace("'", "").replace("\u2019", "").replace("/", "")
    has_letter = any(map(str.isalpha, letters))
    has_capital_within = letters != letters.upper() and letters[1:] != letters[1:].lower()
    return has_letter and (not letters.isalpha() or has_capital_within)
