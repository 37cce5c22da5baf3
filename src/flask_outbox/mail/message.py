"""What an app composes: a message shaped like Flask-Mail's, and its attachments.

Nothing is checked here but what would otherwise be misread in silence; ``seal()`` checks all of
it, since everything may be set after construction.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from secrets import token_hex
from typing import Any, cast, overload

from flask_outbox.mail.address import Address
from flask_outbox.mail.attachment import Attachment, Data, Invitation, in_order, mapped
from flask_outbox.mail.errors import MessageError
from flask_outbox.mail.files import FilePath, OpenFile, Readable
from flask_outbox.mail.submission import NOTHING, Dsn

__all__ = ["Attachment", "Data", "Invitation", "Mailbox", "Message", "as_text", "new_message_id"]

Mailbox = str | tuple[str, str] | Address


class _MadeWhenRead:
    """The Message-ID: made when first read, then an ordinary attribute, as in Flask-Mail.

    It lives in the instance's ``__dict__``, so that copying, pickling and ``__dict__.update`` of
    messages take it along.
    """

    @overload
    def __get__(self, message: None, owner: type["Message"]) -> "_MadeWhenRead": ...
    @overload
    def __get__(self, message: "Message", owner: type["Message"]) -> str: ...
    def __get__(self, message: "Message | None", owner: type["Message"]) -> "str | _MadeWhenRead":
        if message is None:
            return self
        made = message.__dict__["msgId"] = new_message_id(message.sender)
        return made


def new_message_id(sender: Mailbox | None) -> str:
    """Make one with the sender's domain; no host is looked up, and none is told."""
    return f"<{token_hex(16)}@{_domain(as_text(sender) or '')}>"


@lru_cache(maxsize=64)
def _domain(sender: str) -> str:
    domain = sender.rpartition("@")[2].rstrip("> ").lower() if "@" in sender else ""
    usable = domain.isascii() and domain.replace("-", "").replace(".", "").isalnum()
    return domain if usable else "localhost"


def _listed(value: Iterable[Any] | None, field: str) -> list[Any]:
    """Copy a list of recipients, or a set in order; a lone str would be taken for its letters."""
    if isinstance(value, (str, bytes, Address)):
        raise MessageError(f"{field} must be a list; write {field}=[...] around it")
    try:
        return list(in_order(value)) if value else []
    except TypeError:
        raise MessageError(f"{field} must be a list, not {type(value).__name__}") from None


class Message:
    """One e-mail, to be changed freely until it is sealed.

    The arguments up to ``rcpt_options`` are Flask-Mail's, in its order; ``reply_to`` may also be a
    list. Ours by keyword:

    ``in_reply_to``, ``references``
        Message-IDs, with their angle brackets.
    ``auto_submitted``
        ``auto-generated`` or ``auto-replied`` (RFC 3834).
    ``list_id``
        ``"news.example.org"`` or ``("The news", "news.example.org")`` (RFC 2919).
    ``list_unsubscribe``, ``list_help``, ``list_subscribe``, ``list_post``, ``list_owner``,
    ``list_archive``
        one URL or several (RFC 2369).
    ``list_unsubscribe_post``
        one-click unsubscribing (RFC 8058); ``list_unsubscribe`` then needs an https URL.
    ``invitation``
        a calendar invitation: an ``Invitation``, or the text of an iCalendar object.
    ``dsn``
        which delivery status notifications to ask for (RFC 3461).
    ``tags``, ``metadata``
        for providers and for finding it again; not in the mail.
    ``provider``
        what else a provider is to be told, in its own words, such as a template; each transport
        says which names it knows. Values of JSON alone. Not in the mail.
    ``track_opens``, ``track_clicks``
        whether the provider is to watch; left out, as its account is set.
    ``sensitive``
        worth a password: encrypted while it waits (``flask-outbox[crypto]``), and wiped when it was
        accepted.
    ``at_most_once``
        rather lose it than send it twice.
    """

    # What is unset is read from here: a message stays small, and one that was unpickled or filled
    # through its __dict__ lacks nothing.
    subject: Any = ""
    sender: Mailbox | None = None
    reply_to: Mailbox | list[Mailbox] | None = None
    body: Any = None
    date: float | None = None
    charset: str | None = None
    extra_headers: dict[str, str] | None = None
    in_reply_to: str | None = None
    references: Sequence[str] | str = ()
    auto_submitted: str | None = None
    list_id: str | tuple[str, str] | None = None
    list_unsubscribe: Sequence[str] | str = ()
    list_unsubscribe_post: bool = False
    list_help: Sequence[str] | str = ()
    list_subscribe: Sequence[str] | str = ()
    list_post: Sequence[str] | str = ()
    list_owner: Sequence[str] | str = ()
    list_archive: Sequence[str] | str = ()
    invitation: Invitation | str | None = None
    dsn: Dsn | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = NOTHING
    provider: Mapping[str, Any] = NOTHING
    track_opens: bool | None = None
    track_clicks: bool | None = None
    sensitive: bool = False
    at_most_once: bool = False
    msgId = _MadeWhenRead()  # noqa: N815  Flask-Mail's name

    def __init__(  # noqa: PLR0913, PLR0917  Flask-Mail's fifteen, and what else a mail has
        self,
        subject: str = "",
        recipients: Sequence[Mailbox] | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        sender: Mailbox | None = None,
        cc: Sequence[Mailbox] | None = None,
        bcc: Sequence[Mailbox] | None = None,
        attachments: Sequence[Attachment] | None = None,
        reply_to: Mailbox | list[Mailbox] | None = None,
        date: float | None = None,
        charset: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        mail_options: Sequence[str] | None = None,
        rcpt_options: Sequence[str] | None = None,
        *,
        in_reply_to: str | None = None,
        references: Sequence[str] | str | None = None,
        auto_submitted: str | None = None,
        list_id: str | tuple[str, str] | None = None,
        list_unsubscribe: Sequence[str] | str | None = None,
        list_unsubscribe_post: bool = False,
        list_help: Sequence[str] | str | None = None,
        list_subscribe: Sequence[str] | str | None = None,
        list_post: Sequence[str] | str | None = None,
        list_owner: Sequence[str] | str | None = None,
        list_archive: Sequence[str] | str | None = None,
        invitation: Invitation | str | None = None,
        dsn: Dsn | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, str] | None = None,
        provider: Mapping[str, Any] | None = None,
        track_opens: bool | None = None,
        track_clicks: bool | None = None,
        sensitive: bool = False,
        at_most_once: bool = False,
    ) -> None:
        self.recipients: list[Mailbox] = _listed(recipients, "recipients")
        self.cc: list[Mailbox] = _listed(cc, "cc") if cc else []
        self.bcc: list[Mailbox] = _listed(bcc, "bcc") if bcc else []
        self.alts: dict[str, str] = mapped(alts, "alts") if alts else {}
        self.attachments: list[Attachment] = (
            _listed(attachments, "attachments") if attachments else []
        )
        self.mail_options: list[str] = _listed(mail_options, "mail_options") if mail_options else []
        self.rcpt_options: list[str] = _listed(rcpt_options, "rcpt_options") if rcpt_options else []
        self.subject = subject
        self.body = body
        self.sender = as_text(sender)
        self.reply_to = reply_to
        self.date = date
        self.charset = charset
        self.extra_headers = (
            mapped(extra_headers, "extra_headers") if extra_headers is not None else None
        )
        if html is not None:
            self.alts["html"] = html
        self.in_reply_to = in_reply_to
        self.auto_submitted = auto_submitted
        self.list_id = list_id
        self.list_unsubscribe_post = list_unsubscribe_post
        self.invitation = invitation
        self.dsn = dsn
        self.sensitive = sensitive
        self.at_most_once = at_most_once
        self.references = references or ()
        self.list_unsubscribe = list_unsubscribe or ()
        self.list_help = list_help or ()
        self.list_subscribe = list_subscribe or ()
        self.list_post = list_post or ()
        self.list_owner = list_owner or ()
        self.list_archive = list_archive or ()
        self.tags = tuple(_listed(tags, "tags")) if tags else ()
        self.metadata = mapped(metadata, "metadata") if metadata else {}
        self.provider = mapped(provider, "provider") if provider else {}
        self.track_opens = track_opens
        self.track_clicks = track_clicks

    @property
    def html(self) -> str | None:
        """The HTML: the alternative of that name."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: str | None) -> None:
        if value is None:
            self.alts.pop("html", None)
        else:
            self.alts["html"] = value

    @property
    def send_to(self) -> set[Mailbox]:
        """Everybody it is for, as given."""
        return {*self.recipients, *(self.bcc or ()), *(self.cc or ())}

    def add_recipient(self, recipient: Mailbox) -> None:
        """Add one to those in To."""
        self.recipients.append(recipient)

    def attach(  # noqa: PLR0913  Flask-Mail's five, in its order, and one of ours
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
        disposition: str | None = None,
        headers: dict[str, str] | None = None,
        *,
        cid: str | None = None,
    ) -> None:
        """Attach data; see Attachment."""
        self.attachments.append(
            Attachment(filename, content_type, data, disposition, headers, cid=cid),
        )

    def attach_file(
        self,
        file: str | os.PathLike[str] | Readable,
        filename: str | None = None,
        content_type: str | None = None,
        *,
        cid: str | None = None,
    ) -> None:
        """Attach a file by its path, or an open one; it is read when the message is sealed.

        A path must lead to a regular file below one of MAIL_ATTACHMENT_ROOTS. An open file must
        be open for bytes, and still be open then.
        """
        if isinstance(file, (str, os.PathLike)):
            path = os.fspath(file)
            data: FilePath | OpenFile = FilePath(path)
            name: Any = path
        elif callable(getattr(file, "read", None)):
            data = OpenFile.at_its_place(file)
            name = getattr(file, "filename", None) or getattr(file, "name", None)
        else:
            raise MessageError(
                f"attach_file takes a path or a file open for bytes, not {type(file).__name__}"
            )
        if filename is None and isinstance(name, str):
            filename = os.path.basename(name)  # noqa: PTH119  a name, not a path of this machine
        self.attach(filename, content_type, data, cid=cid)

    def inline(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Data | None = None,
    ) -> str:
        """Attach an image for the HTML to show; give the URL for its ``src``.

        The URL is made from the name and the bytes, so that the same image has the same one.
        """
        mark = data if isinstance(data, bytes) else repr((len(self.attachments), filename)).encode()
        cid = f"{sha256(mark).hexdigest()[:24]}@inline"
        self.attach(filename, content_type, data, cid=cid)
        return f"cid:{cid}"


def as_text(sender: Any) -> str | None:
    """Write a sender as Flask-Mail keeps it: ``tester <tester@example.com>``."""
    if not sender:
        return None
    if isinstance(sender, (tuple, list)) and len(cast("list[Any]", sender)) == 2:  # noqa: PLR2004
        return _pair_as_text(*cast("list[Any]", sender))
    if isinstance(sender, Address):
        return str(sender)
    return cast("str", sender)  # whatever else it is, seal() says so


@lru_cache(maxsize=64)
def _pair_as_text(name: str | None, addr: str) -> str:
    return str(Address(name or "", addr))
