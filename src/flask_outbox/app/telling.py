"""Tell an app's listeners what became of its mail."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from blinker import NamedSignal
from flask import Flask

from flask_outbox.app.signals import (
    email_dispatched,
    message_deferred,
    message_failed,
    message_queued,
    message_sent,
    route_paused,
    route_resumed,
    worker_lost,
)
from flask_outbox.app.starting import context
from flask_outbox.mail.address import Address
from flask_outbox.mail.lifecycle import State
from flask_outbox.mail.message import Attachment, Mailbox, Message
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.mail.unseal import unseal

if TYPE_CHECKING:
    from flask_outbox.outbox.record import Recorded
    from flask_outbox.worker.plan import Alert

log = logging.getLogger("flask_outbox")

FAILED = "A listener of %s failed."
BY_STATE = {
    State.QUEUED: message_deferred,
    State.FAILED: message_failed,
    State.UNKNOWN: message_failed,
    State.EXPIRED: message_failed,
}


def tell_queued(app: Flask, message: Message, row: str, *, rehearsed: bool) -> None:
    """Tell of a message that was written down; a rehearsed one counts as dispatched, too.

    What a listener raises is for tests to see. Elsewhere it is a line in the log: whoever is told
    that the mail was not queued sends it again.
    """
    try:
        with context(app):
            message_queued.send(app, message=message, id=row)
            if rehearsed:
                email_dispatched.send(app, message=message)
    except Exception:
        if rehearsed:
            raise
        log.exception(FAILED, message_queued.name)


def tell_sent(app: Flask, message: Message, receipt: Receipt, row: str = "") -> None:
    """Tell of a message that was accepted."""
    with context(app):
        email_dispatched.send(app, message=message)
        _tell(message_sent, app, message, row, receipt, State.ACCEPTED, "")


def tell_drained(app: Flask, message: Message, receipt: Receipt, row: str) -> None:
    """Tell of a rehearsed message whose time came; it was dispatched when it was queued."""
    with context(app):
        _tell(message_sent, app, message, row, receipt, State.ACCEPTED, "")


def tell_unsent(app: Flask, message: Message, receipt: Receipt, reason: str) -> None:
    """Tell of a message that nobody accepted."""
    state = State.UNKNOWN if receipt.unclear else State.FAILED
    with context(app):
        _tell(message_failed, app, message, "", receipt, state, reason)


def _tell(  # noqa: PLR0913, PLR0917  what a listener hears
    signal: NamedSignal,
    app: Flask,
    message: Message,
    row: str,
    receipt: Receipt,
    state: State,
    reason: str,
) -> None:
    signal.send(app, message=message, id=row, receipt=receipt, state=state, reason=reason)


def tell_recorded(app: Flask, recorded: "Recorded", kind: type[Message]) -> None:
    """Tell of what a worker recorded, each signal in a context of its own.

    A listener that raises is a line in the log: the mail has gone, and others wait.
    """
    signals: list[NamedSignal] = []
    if recorded.receipt.accepted:
        signals += [email_dispatched, message_sent]
    if recorded.state in BY_STATE:
        signals.append(BY_STATE[recorded.state])
    heard = [signal for signal in signals if signal.receivers]
    if not heard:
        return
    message = message_of(recorded.submission, kind)
    facts = {
        "id": recorded.submission.id,
        "receipt": recorded.receipt,
        "state": recorded.state,
        "reason": recorded.reason,
    }
    for signal in heard:
        _send_alone(app, signal, message=message, **({} if signal is email_dispatched else facts))


def tell_alert(app: Flask, alert: "Alert") -> None:
    """Tell of a route that pauses or works again, or of a worker that stopped beating."""
    from flask_outbox.mail.route import RoutePaused, RouteResumed  # noqa: PLC0415  in workers only

    match alert:
        case RoutePaused():
            facts = {"reason": alert.reason, "seconds": alert.seconds}
            _send_alone(app, route_paused, route=alert.route, **facts)
        case RouteResumed():
            _send_alone(app, route_resumed, route=alert.route)
        case _:
            lost = alert.worker
            where = {"host": lost.host, "pid": lost.pid, "beat_at": lost.beat_at}
            _send_alone(app, worker_lost, worker=lost.name, **where)


def _send_alone(app: Flask, signal: NamedSignal, **facts: Any) -> None:
    """Send it in a context of its own; a listener that raises is a line in the log."""
    if not signal.receivers:
        return
    try:
        with app.app_context():
            signal.send(app, **facts)
    except Exception:
        log.exception(FAILED, signal.name)


def message_of(submission: Submission, kind: type[Message] = Message) -> Any:
    """Make a message of what was sealed: as near to what was composed as can be read from it."""
    parts = unseal(submission.content)
    shown = {each.addr for each in (*parts.to, *parts.cc)}
    alts = dict(parts.alternatives)
    if parts.html is not None:
        alts["html"] = parts.html
    message = kind(
        subject=parts.subject,
        recipients=[str(each) for each in parts.to],
        body=parts.text,
        alts=alts,
        sender=str(parts.sender),
        cc=[str(each) for each in parts.cc],
        bcc=[each for each in submission.recipients if each not in shown],
        attachments=[
            Attachment(
                each.filename,
                each.content_type,
                each.data,
                each.disposition,
                dict(each.headers),
                cid=each.cid or None,
            )
            for each in parts.attachments
        ],
        reply_to=_reply_to(parts.reply_to),
        date=submission.date,
        extra_headers=_composed(parts.headers) or None,
        mail_options=list(submission.mail_options),
        rcpt_options=list(submission.rcpt_options),
        dsn=submission.dsn,
        tags=submission.tags,
        metadata=submission.metadata,
        provider=submission.provider,
        track_opens=submission.track_opens,
        track_clicks=submission.track_clicks,
        sensitive=submission.sensitive,
        at_most_once=submission.at_most_once,
    )
    message.__dict__["msgId"] = submission.message_id
    return message


def _composed(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Leave out what was added when it left: a signature holds for no other mail."""
    return {name: value for name, value in headers if name.lower() != "dkim-signature"}


def _reply_to(several: Sequence[Address]) -> Mailbox | list[Mailbox] | None:
    texts: list[Mailbox] = [str(each) for each in several]
    if len(texts) > 1:
        return texts
    return texts[0] if texts else None
