"""The linter's rule on access keys: a mailbox is read by more people, and longer, than one thinks.

What is found is never quoted; of a key its first four letters are told, which all of its kind have.
"""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from flask_outbox.mail.lint_letter import Letter, without_links

_EDGE = r"(?<![A-Za-z0-9_-])"
# What may stand between the name of a key and the key: a remark in parentheses, a verb, a sign.
# After a remark that it is an id or a digest, no key comes.
_NO_KEY = r"[^()\n]{0,60}(?i:\bid\b|sha-?\d|md5|hash|fingerprint)"
_SAID = (
    rf"[\"']?(?:\s{{1,2}}\((?!{_NO_KEY})[^()\n]{{1,60}}\))?"
    r"(?:\s{1,2}(?i:is|ist|lautet|est|es))?[:=\s]{1,4}[\"']?"
)

# What each begins with is documented by who gives it out.
KEYS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "a private key": re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY"),
        "a key of GitHub's": re.compile(_EDGE + r"(?:gh[pousr]_\w{36}|github_pat_\w{22})"),
        "a key of GitLab's": re.compile(_EDGE + r"glpat-[\w-]{20}"),
        "a key of Slack's": re.compile(_EDGE + r"(?:xox[abeoprs]|xapp)-[\w-]{10}"),
        "a webhook of Slack's": re.compile(
            r"hooks\.slack\.com/services/T\w{6,16}/B\w{6,16}/\w{16}"
        ),
        "a key of Stripe's": re.compile(_EDGE + r"(?:[rs]k_live_\w{16}|whsec_[\w+/]{24})"),
        "a key of SendGrid's": re.compile(_EDGE + r"SG\.[\w-]{16,64}+\.[\w-]{16}"),
        "a key of Resend's": re.compile(
            _EDGE + r"re_(?=\w{0,40}\d)[A-Za-z0-9]{6,16}+_[A-Za-z0-9]{20}"
        ),
        "a key of Mailgun's": re.compile(_EDGE + r"key-[0-9a-f]{32}(?![0-9a-f])"),
        "a key of Google's": re.compile(_EDGE + r"AIza[\w-]{35}"),
        "an access token of Google's": re.compile(_EDGE + r"ya29\.[\w-]{20}"),
        "a secret access key of AWS": re.compile(
            r"(?i:secret[ _-]?access[ _-]?key)" + _SAID + r"[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"
        ),
        # Of any service, by what stands before it.
        "an API key": re.compile(
            r"(?i:\bapi[ _-]?(?:key|token|secret|schlüssel))"
            + _SAID
            + r"(?:[0-9a-f]{32,}|[0-9A-F]{32,})(?![\w-])"
        ),
        "a key of npm's": re.compile(_EDGE + r"npm_[A-Za-z0-9]{36}"),
        "a key of PyPI's": re.compile(_EDGE + r"pypi-AgE[\w-]{50}"),
        "a key of an AI service": re.compile(_EDGE + r"sk-(?:ant-|proj-)?[\w-]{32}"),
    },
)
# In a link these are at their place: an id of AWS in a presigned address, a token in a reset.
KEYS_OUTSIDE_LINKS: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "an access key of AWS": re.compile(_EDGE + r"(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
        "a JSON web token": re.compile(_EDGE + r"eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]{8}"),
    },
)


def access_key(letter: Letter) -> Iterator[str]:
    """Say where a key stands that opens somebody's account."""
    for name, text in letter.texts():
        for keys, where in ((KEYS, text), (KEYS_OUTSIDE_LINKS, without_links(text))):
            for kind, pattern in keys.items():
                if found := pattern.search(where):
                    yield (
                        f"{name} has what looks like {kind} ({found[0][:4]}…); take it out, and"
                        " have it replaced where it was given out."
                    )
    targets = "\n".join(link.target for link in letter.page.links)
    for kind, pattern in KEYS.items():
        if pattern.search(targets):
            yield (
                f"A link in the HTML has what looks like {kind}; take it out, and have it replaced"
                " where it was given out."
            )
