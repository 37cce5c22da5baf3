"""The exceptions, one tree.

::

    OutboxError
    ├── ConfigurationError      at start-up: names the key, what it should look like, and the fix
    ├── MessageError            when composed or sealed; also a ValueError
    │   ├── MissingFieldError   no sender, no recipient; also an AssertionError, as in Flask-Mail
    │   ├── BadHeaderError      a control character, or what else may not stand in a header
    │   ├── TooLargeError       over a limit on size, recipients or headers
    │   └── UnsupportedFeature  the transport cannot carry what was asked for
    ├── OutboxUnavailable       the outbox cannot be opened or written: names it and the fix
    │   └── InDoubt             it fell silent at a commit, which may have been done
    ├── KeyConflict             the same key= with other content
    ├── MessageCancelled        a before_send function cancelled it, with its reason
    ├── SendError               mail.send only (in app/sending.py): nobody accepted
    └── WireError               inside wire and transports only; always ends as an outcome
        └── TlsError            the line could not be made private

No exception holds a password, key, token, body or full message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask_outbox.mail.exchange import SmtpReply


class OutboxError(Exception):
    """What everything that Flask-Outbox raises derives from."""


class ConfigurationError(OutboxError):
    """A setting that cannot work; the text names the key and the fix."""


class MessageError(OutboxError, ValueError):
    """A message that cannot be sent as it is; the text names the field and the fix."""


class MissingFieldError(MessageError, AssertionError):
    """No sender or no recipients."""


class BadHeaderError(MessageError):
    """What may not stand in a header; the text names the field, never the value."""


class TooLargeError(MessageError):
    """Over a limit; the text names the limit and the figure."""


class UnsupportedFeature(MessageError):  # noqa: N818  a term of the field, as in other mail libraries
    """The chosen transport cannot carry this; the text names both."""


class OutboxUnavailable(OutboxError):  # noqa: N818  what is unavailable is the outbox, not the error
    """The outbox could not be opened or written; nothing was half done."""


class Contended(OutboxUnavailable):
    """Another transaction was given way to; nothing was done, and it may be done at once."""


class InDoubt(OutboxUnavailable):
    """The database fell silent at a commit: what it was for may be done, or not."""


class KeyConflict(OutboxError):  # noqa: N818  says what happened; every except clause reads better
    """The same ``key=`` was used before, for other content."""


class MessageCancelled(OutboxError):  # noqa: N818  says what happened; every except clause reads better
    """A ``before_send`` function decided that the message shall not go out."""


class WireError(OutboxError):
    """The line failed. ``sent``: bytes of the latest Write that had gone to the kernel.

    ``reply`` is what the server had said before the line broke, where it said anything whole.
    """

    def __init__(self, text: str, *, sent: int = 0, reply: SmtpReply | None = None) -> None:
        super().__init__(text)
        self.sent = sent
        self.reply = reply


class TlsError(WireError):
    """The line could not be made private, or the certificate was not to be trusted."""
