"""What a transport can take, declared, so that what it cannot is refused and never dropped.

``refuse`` looks at a submission when it is enqueued and again when it is sent: between the two an
app may have been given another transport.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from flask_outbox.mail.errors import UnsupportedFeature
from flask_outbox.mail.submission import ROW, Submission


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What words may go along: how many, and how each may look, as a regular expression."""

    most: int
    names: str = r"(?s:.)*"  # of tags, and of what metadata are called
    values: str = r"(?s:.)*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Carries:
    """What a transport can take. The defaults are a relay's.

    ``tags`` and ``metadata`` None: they stay in the outbox, as with SMTP. ``provider``: the names
    that ``Message(provider={…})`` may have; None: whatever it has. ``template``: those of them
    that name a template, which then is the mail's text. ``reserved``: names of header fields, in
    lower case, that it sets itself. Sizes in octets of the sealed mail.
    """

    window: int = 1  # submissions in doubt at most when a line breaks
    dsn: bool = False
    raw: bool = True  # the bytes as they are sealed; else their parts
    signature: bool = True  # a DKIM signature of ours, where it takes the bytes: it changes none
    envelope: bool = True  # a return path of its own, and ESMTP options
    return_path: bool = False  # the first of these all the same, though the envelope is not ours
    utf8: bool = True  # addresses whose local part is not ASCII (RFC 6531)
    tags: Words | None = None
    metadata: Words | None = None
    one_space: bool = False  # tags and metadata are one list of names
    reserved: tuple[str, ...] = ()
    empty: bool = True  # an attachment that is empty
    provider: tuple[str, ...] | None = ()
    template: tuple[str, ...] = ()
    template_files: bool = True  # attachments besides a template
    untitled: bool = True  # a mail without a subject, unless a template has one
    opens: bool = False  # track_opens=
    clicks: bool = False  # track_clicks=
    idempotency: bool = False  # a repeat of the same request is no second mail
    recipients: int | None = None
    size: int | None = None


def refuse(name: str, carries: object, submission: Submission) -> None:
    """Raise UnsupportedFeature for the first thing that the transport of this name cannot carry.

    A third party's declaration need not be one of ours: what it does not say is as with a relay.
    """
    for what in _missing(completed(carries), submission):
        raise UnsupportedFeature(f"{name} cannot carry {what}.")


def is_signed_by_us(carries: object) -> bool:
    """Tell whether what leaves by it has our DKIM signatures: where it goes as it is sealed."""
    carried = completed(carries)
    return carried.raw and carried.signature


def completed(carries: object) -> Carries:
    """Take a declaration that may be a third party's, with a relay's defaults for what it lacks."""
    if isinstance(carries, Carries):
        return carries
    names = [each.name for each in fields(Carries)]
    return Carries(**{name: getattr(carries, name) for name in names if hasattr(carries, name)})


def _missing(carries: Carries, submission: Submission) -> Iterator[str]:
    if submission.dsn is not None and not carries.dsn:
        yield "dsn"
    if not carries.envelope and (submission.mail_options or submission.rcpt_options):
        yield "mail_options and rcpt_options, which are SMTP's"
    if submission.utf8 and not carries.utf8:
        yield "an address whose local part is not ASCII"
    if submission.track_opens is not None and not carries.opens:
        yield "track_opens"
    if submission.track_clicks is not None and not carries.clicks:
        yield "track_clicks"
    yield from _unknown(carries, submission)
    yield from _unfiled(carries, submission)
    if carries.recipients is not None and len(submission.recipients) > carries.recipients:
        yield f"more than {carries.recipients} recipients in one message"
    if carries.size is not None and len(submission.content) > carries.size:
        yield f"a message of more than {carries.size} octets"


def _unknown(carries: Carries, submission: Submission) -> Iterator[str]:
    known = carries.provider
    if known is not None:
        for name in submission.provider:
            if name not in known:
                listed = f"; it knows {', '.join(known)}" if known else ""
                yield f"provider[{name!r}]{listed}"


def _unfiled(carries: Carries, submission: Submission) -> Iterator[str]:
    if carries.tags is not None:
        yield from _unfit("tags", carries.tags, dict.fromkeys(submission.tags, ""))
    if carries.metadata is not None:
        yield from _unfit("metadata", carries.metadata, submission.metadata)
    if carries.one_space:
        taken = {ROW, *submission.metadata}
        for tag in submission.tags:
            if tag in taken:
                yield f"a tag and metadata of one name, {tag!r}"


def _unfit(field: str, words: Words, given: Mapping[str, str]) -> Iterator[str]:
    if len(given) > words.most:
        yield f"more than {words.most} of {field}"
    for name, value in given.items():
        if not re.fullmatch(words.names, name):
            yield f"{field} that do not match {words.names}"
        if not re.fullmatch(words.values, value):
            yield f"{field} whose values do not match {words.values}"
