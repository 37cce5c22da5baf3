"""What sits at ``app.extensions["outbox"]``: the ways that an app's mail takes, now and later."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, has_app_context

from flask_outbox.app import engines, starting, ways_out
from flask_outbox.app.flask_mail import _Mail
from flask_outbox.app.made import Made
from flask_outbox.app.preparing import BIG, Hooks, Prepared, check_kind, prepare
from flask_outbox.app.rehearsal import Everywhere, Rehearsal, Rehearsed
from flask_outbox.app.settings import Settings
from flask_outbox.app.telling import tell_drained, tell_queued, tell_sent, tell_unsent
from flask_outbox.mail import message as core
from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.transports.base import Transport

if TYPE_CHECKING:
    from flask_outbox.app.failover import Way
    from flask_outbox.app.joined import Joined
    from flask_outbox.app.sending import Host
    from flask_outbox.outbox.status import Status
    from flask_outbox.worker.engine import Engine

IN_A_REQUEST = 60.0  # seconds for one message, where somebody waits


class Runtime(Made):
    """One per app."""

    def __init__(  # noqa: PLR0913  what Mail has been given
        self,
        app: Flask,
        state: _Mail,
        settings: Settings,
        hooks: Hooks,
        *,
        engine: "Engine | None" = None,
        joined: "Joined | None" = None,
    ) -> None:
        super().__init__(app, state, settings, hooks, engine=engine, joined=joined)
        self.rehearsal = Rehearsal()
        self._looked: int | None = None  # the process that looked for open rows

    @property
    def suppressed(self) -> bool:
        """Whether nothing may go out."""
        return Everywhere.depth > 0 or self.state.suppressed(self.app.testing)

    def prepare(
        self,
        message: core.Message,
        *,
        at: float | None = None,
        return_path: str | None = None,
        transport: str | None = None,
    ) -> Prepared:
        """Do what comes before sealing, in the app's context, and seal.

        ``transport`` None: the one that the app chooses for the message, or the default.
        """
        check_kind(message)
        with starting.context(self.app):
            if transport is None:
                transport = self._chosen(message)
            self.transport_is_known(transport)
            prepared = prepare(
                message,
                self.settings,
                self.hooks.before_send,
                default_sender=self.state.default_sender,
                ascii_attachments=self.state.ascii_attachments,
                at=at,
                return_path=return_path,
                transport=transport,
            )
        sealed = prepared.submission
        way = None if sealed is None else self._asked(transport)
        if sealed is not None and way is not None:
            ways_out.check(way, sealed)
        return prepared

    def _asked(self, transport: str) -> "Way | None":
        """Give whom to ask whether they carry it; where nothing goes out, those named by a URL.

        There Flask-Mail's keys may say anything, as may a key that tests do not have; and a
        loader may ask what tests cannot reach.
        """
        if not self.suppressed:
            return self.way(transport)
        is_named = transport in self.names() and (transport != "default" or self.has_url)
        try:
            return self.way(transport) if is_named else None
        except ConfigurationError:
            return None

    def _chosen(self, message: core.Message) -> str:
        choose = self.hooks.choose_transport
        chosen: object = None if choose is None else choose(message)
        if chosen is None:
            return "default"
        if not isinstance(chosen, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MessageError(
                "transport: @mail.choose_transport must give the name of a transport, or None, not"
                f" {type(chosen).__name__}."
            )
        return chosen

    def host(self) -> "Host":
        """Make what carries mail now."""
        from flask_outbox.app.sending import Host  # noqa: PLC0415  brings smtplib

        return Host(
            self.way,
            self.health,
            self.sign,
            self.pool,
            seconds=self.settings.timeout or IN_A_REQUEST,
            debug=bool(self.state.debug),
            configured=self.is_configured,
        )

    def send_over(self, host: Any, prepared: Prepared) -> Receipt:
        """Send over a host, perhaps a test's own; over none where sending is suppressed."""
        submission = prepared.submission
        if submission is None:
            return Receipt()
        if host is None:
            receipt: object = None
        else:
            host.sealed = submission
            with _TellFailure(self.app, prepared.message):
                receipt = host.sendmail(
                    submission.sender,
                    list(submission.recipients),
                    submission.content,
                    prepared.message.mail_options,
                    prepared.message.rcpt_options,
                )
        if not isinstance(receipt, Receipt):
            receipt = Receipt.same(submission, Accepted())
        tell_sent(self.app, prepared.message, receipt)
        return receipt

    async def send_async(self, prepared: Prepared) -> Receipt:
        """Send on the background loop, and wait without holding up this one."""
        import asyncio  # noqa: PLC0415  for async apps only

        from flask_outbox.app.awaiting import send_on_loop  # noqa: PLC0415  brings asyncio
        from flask_outbox.wire.background import background  # noqa: PLC0415  made on first use

        submission = prepared.submission
        if submission is None:
            return Receipt()
        if self.suppressed:
            receipt = Receipt.same(submission, Accepted())
        else:
            sending = send_on_loop(
                self.way(submission.transport),
                self.health,
                self._signed,
                submission,
                self.async_pool,
                seconds=self.settings.timeout or IN_A_REQUEST,
                debug=bool(self.state.debug),
                configured=self.is_configured,
            )
            with _TellFailure(self.app, prepared.message):
                receipt = await asyncio.wrap_future(background.submit(sending))
        tell_sent(self.app, prepared.message, receipt)
        return receipt

    async def _signed(self, submission: Submission, transport: Transport) -> Submission:
        import asyncio  # noqa: PLC0415  for async apps only

        if len(submission.content) > BIG:
            return await asyncio.to_thread(self.sign, submission, transport)
        return self.sign(submission, transport)

    def enqueue(self, prepared: Prepared, schedule: Schedule, session: Any = None) -> str:
        """Write it down, and see that a worker looks and listeners hear of it; give its id.

        In a session, its own or the app's, both wait for the commit.
        """
        submission = prepared.submission
        if submission is None:
            return ""
        if (session := self._session(session)) is not None:
            from flask_outbox.app import within  # noqa: PLC0415  brings SQLAlchemy

            return within.enqueue(self, session, prepared.message, submission, schedule)
        if self.suppressed:
            row, is_new = self.rehearsal.add(prepared.message, submission, schedule)
            if is_new:
                tell_queued(self.app, prepared.message, row, rehearsed=True)
            return row
        from flask_outbox.outbox.enqueue import put  # noqa: PLC0415  brings SQLAlchemy

        engine = self.ready()  # first, so that what it refuses is not written down
        row, is_new = put(self.outbox, submission, schedule)
        if engine is not None:
            engine.wake(schedule.due(time.time()))
        if is_new:
            tell_queued(self.app, prepared.message, row, rehearsed=False)
        return row

    def _session(self, given: Any) -> Any:
        return self.joined.session if given is None and self.joined is not None else given

    def cancel(self, row: str, session: Any = None) -> bool:
        """Take back what is queued, in the transaction of a session, where there is one."""
        is_rehearsed = self.rehearsal.knows(row)
        if not (is_rehearsed or self.exists):
            return False
        if (session := self._session(session)) is not None:
            from flask_outbox.app import within  # noqa: PLC0415  brings SQLAlchemy

            return within.cancel(self, session, row)
        if is_rehearsed:
            return self.rehearsal.cancel(row)
        from flask_outbox.outbox import status  # noqa: PLC0415  brings SQLAlchemy

        return status.cancel(self.outbox, row)

    def status(self, row: str) -> "Status | None":
        """Tell how far it came; within the transaction of the app's session, as that sees it."""
        if self.rehearsal.knows(row):
            return self.rehearsal.status(row)
        if not self.exists:
            return None
        from flask_outbox.outbox import status  # noqa: PLC0415  brings SQLAlchemy

        session = self.joined.session if self.joined and has_app_context() else None
        if session is None or not session().in_transaction():
            return status.status(self.outbox, row)
        from flask_outbox.app import within  # noqa: PLC0415  brings SQLAlchemy

        return within.status(self, session, row)

    def drain_rehearsal(self, at: float) -> int:
        """Let what is kept in memory count as sent, as far as it is due by then."""
        return self.rehearsal.drain(at, self._rehearsed)

    def _rehearsed(self, row: Rehearsed) -> None:
        receipt = Receipt.same(row.submission, Accepted())
        tell_drained(self.app, row.message, receipt, row.id)

    # --- who is told of it ---

    def ready(self) -> "Engine | None":
        """Give who is to be told of new mail; the embedded worker is started where it may be.

        Raises ConfigurationError where that cannot work.
        """
        if not self.is_embedded:
            return self.wakes
        if not starting.may_start(self.app):
            return None
        self.embedded.ensure()
        return self.embedded

    def look_once(self) -> None:
        """With a process's first request, see to what waited while no process ran."""
        pid = os.getpid()
        if self._looked == pid:
            return
        self._looked = pid
        starting.requests_seen.add(pid)
        if self.suppressed or not self.exists:
            return
        try:
            polled = not self.is_embedded and self.wakes is None
            if not polled and self._has_open() and (engine := self.ready()):
                engine.wake(time.time())
        except ConfigurationError as error:
            starting.log.error("%s", error)
        except Exception:  # noqa: BLE001  a request does not fail for it
            self._looked = None
            starting.log.exception(
                "The outbox could not be looked at; the next request tries again."
            )

    def _has_open(self) -> bool:
        from flask_outbox.outbox.claim import has_open  # noqa: PLC0415  brings SQLAlchemy

        return has_open(self.outbox, self.names(), besides=self.tenants is not None)

    def drain(
        self,
        seconds: float | None = None,
        at_once: int | None = None,
        leave: Callable[[], bool] = bool,  # which says False: stay
    ) -> int:
        """Send what is due in this thread and in the app's context; tell how many were tried.

        Whoever is told of new mail is told again where something due is left.
        """
        from flask_outbox.worker.engine import drain  # noqa: PLC0415  brings SQLAlchemy

        if self.suppressed:
            return self.drain_rehearsal(time.time())
        if not self.exists:
            return 0
        with self.app.app_context():
            drained = drain(self.plan(), seconds=seconds, at_once=at_once, leave=leave)
        if drained.is_left and (wakes := self.wakes):
            wakes.wake(time.time())
        return drained.tried

    def is_served_by(self, celery_app: object) -> bool:
        """Tell whether tasks of this Celery send the app's mail."""
        is_ours = self.app.extensions.get("outbox") is self
        return is_ours and engines.celery_of(self) is celery_app


class _TellFailure:
    """Sends message_failed for a SendError that passes through."""

    def __init__(self, app: Flask, message: core.Message) -> None:
        self._app = app
        self._message = message

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        receipt = getattr(error, "receipt", None)
        if isinstance(receipt, Receipt):
            tell_unsent(self._app, self._message, receipt, str(error))
