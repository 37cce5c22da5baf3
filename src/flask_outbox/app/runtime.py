"""What sits at ``app.extensions["outbox"]``: everything of an app that is made on first use.

An app that only calls ``mail.send`` gets a pool of lines from it, and nothing else: the outbox,
its workers and SQLAlchemy come with the first ``send_later``.
"""

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask

from flask_outbox.app import starting, ways_out
from flask_outbox.app.flask_mail import Message, _Mail
from flask_outbox.app.preparing import BeforeSend, Prepared, check_kind, prepare
from flask_outbox.app.rehearsal import Everywhere, Rehearsal, Rehearsed
from flask_outbox.app.settings import Settings
from flask_outbox.app.telling import tell_drained, tell_recorded, tell_sent, tell_unsent
from flask_outbox.mail import message as core
from flask_outbox.mail.errors import MessageError, UnsupportedFeature
from flask_outbox.mail.outcome import Accepted
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.schedule import Schedule
from flask_outbox.transports.base import Transport

if TYPE_CHECKING:
    from flask_outbox.app.sending import Host
    from flask_outbox.outbox.database import Outbox
    from flask_outbox.wire import aio, sync
    from flask_outbox.worker.embedded import Embedded
    from flask_outbox.worker.loop import Plan

T = TypeVar("T")

IN_A_REQUEST = 60.0  # seconds for one message, where somebody waits
IN_A_WORKER = 600.0  # and where nobody does
FILE = "outbox.sqlite3"


class Runtime:
    """One per app."""

    def __init__(
        self, app: Flask, state: _Mail, settings: Settings, before_send: Sequence[BeforeSend]
    ) -> None:
        self.app = app
        self.state = state
        self.settings = settings
        self.before_send = before_send
        self.rehearsal = Rehearsal()
        self._making = threading.RLock()
        self._made: dict[str, Any] = {}
        self._transports: dict[str, tuple[object, Transport]] = {}
        self._looked: int | None = None  # the process that looked for open rows
        _all.add(self)

    def __repr__(self) -> str:
        return f"<flask_outbox runtime of {self.app.name!r}>"

    # --- what is made on first use ---

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._made:
            with self._making:
                if name not in self._made:
                    self._made[name] = make()
        made: T = self._made[name]
        return made

    @property
    def pool(self) -> "sync.Pool":
        """Lines for ``mail.send``."""
        return self._once("pool", self._make_pool)

    def _make_pool(self) -> "sync.Pool":
        from flask_outbox.wire import sync  # noqa: PLC0415  made on first use

        pool = sync.Pool()
        weakref.finalize(self, pool.close)
        return pool

    @property
    def async_pool(self) -> "aio.Pool":
        """Lines for ``mail.send_async``."""
        return self._once("async_pool", self._make_async_pool)

    def _make_async_pool(self) -> "aio.Pool":
        from flask_outbox.wire import aio  # noqa: PLC0415  made on first use

        pool = aio.Pool()
        weakref.finalize(self, pool.close)
        return pool

    @property
    def outbox(self) -> "Outbox":
        """The outbox; its file is made with its first transaction."""
        return self._once("outbox", self._make_outbox)

    def _make_outbox(self) -> "Outbox":
        from flask_outbox.mail.retry import Patience  # noqa: PLC0415  made on first use
        from flask_outbox.outbox.database import Outbox  # noqa: PLC0415  the same

        settings = self.settings
        patience = Patience(give_up=settings.give_up, max_unclear=settings.max_unclear)
        outbox = Outbox(self.file, lease=settings.lease, patience=patience)
        weakref.finalize(self, outbox.close)
        return outbox

    @property
    def file(self) -> Path:
        """Where the outbox is kept; a relative path is one below the instance folder."""
        given = (self.settings.outbox_url or f"sqlite:///{FILE}").removeprefix("sqlite:///")
        return Path(self.app.instance_path, given)

    @property
    def embedded(self) -> "Embedded":
        """The worker of this app and process."""
        return self._once("embedded", self._make_embedded)

    def _make_embedded(self) -> "Embedded":
        from flask_outbox.worker.embedded import Embedded  # noqa: PLC0415  made on first use

        return Embedded(self.plan)

    # --- the ways out ---

    def names(self) -> list[str]:
        """List the transports by name."""
        return list(dict.fromkeys(["default", *self.settings.transports]))

    def transport_is_known(self, name: str) -> None:
        """Raise MessageError for a name that is not configured."""
        if name not in self.names():
            raise MessageError(
                f"transport must be one of MAIL_TRANSPORTS: {', '.join(map(repr, self.names()))}."
            )

    def transport(self, name: str = "default") -> Transport:
        """Give a transport; the default one follows the live fields of the state."""
        self.transport_is_known(name)
        fixed = name != "default" or self.has_url
        key = () if fixed else ways_out.live(self.state)
        held = self._transports.get(name)
        if held is None or held[0] != key:
            made = ways_out.configured(self.settings, name) or ways_out.from_fields(
                self.state, self.settings
            )
            self._transports[name] = held = (key, made)
        return held[1]

    @property
    def has_url(self) -> bool:
        """Whether the default transport is not Flask-Mail's keys."""
        return self.settings.transport is not None or "default" in self.settings.transports

    @property
    def is_configured(self) -> bool:
        """Whether the app said anything about where its mail goes."""
        local = (self.state.server, self.state.port) == ("127.0.0.1", 25)
        return self.has_url or not local or "MAIL_SERVER" in self.settings.given

    def check(self) -> None:
        """Raise ConfigurationError at start-up for what could never send."""
        for name in self.names():
            self.transport(name)
        ways_out.check_tls_files(self.settings)

    def plan(self) -> "Plan":
        """Say what a worker works with."""
        from flask_outbox.app.overhear import Overheard  # noqa: PLC0415  in workers only
        from flask_outbox.worker.loop import Plan  # noqa: PLC0415  in workers only

        transports: Mapping[str, Transport] = {name: self.transport(name) for name in self.names()}
        if self.state.debug:
            transports = {name: Overheard(each) for name, each in transports.items()}
        return Plan(
            outbox=self.outbox,
            transports=transports,
            connections=self.settings.connections,
            timeout=self.settings.timeout or IN_A_WORKER,
            grace=self.settings.grace,
            observe=self.observe,
        )

    # --- sending ---

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
        transport: str = "default",
    ) -> Prepared:
        """Do what comes before sealing, in the app's context, and seal."""
        check_kind(message)
        with starting.context(self.app):
            prepared = prepare(
                message,
                self.settings,
                self.before_send,
                default_sender=self.state.default_sender,
                ascii_attachments=self.state.ascii_attachments,
                at=at,
                return_path=return_path,
                transport=transport,
            )
        sealed = prepared.submission
        if sealed is not None and sealed.dsn is not None and not self.suppressed:
            way = self.transport(transport)
            if not way.carries.dsn:
                raise UnsupportedFeature(f"dsn cannot be asked for with {way.name}.")
        return prepared

    def host(self) -> "Host":
        """Make what carries mail now."""
        from flask_outbox.app.sending import Host  # noqa: PLC0415  brings smtplib

        return Host(
            self.transport(),
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
                self.transport(),
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

    def enqueue(self, prepared: Prepared, schedule: Schedule) -> tuple[str, bool]:
        """Write it down, and see that a worker looks; give its id, and whether it is new."""
        submission = prepared.submission
        if submission is None:
            return "", False
        if self.suppressed:
            return self.rehearsal.add(prepared.message, submission, schedule)
        from flask_outbox.outbox.enqueue import enqueue  # noqa: PLC0415  brings SQLAlchemy

        works = self.start_worker()  # first, so that what it refuses is not written down
        with self.outbox.begin() as connection:
            row = enqueue(connection, self.outbox, submission, schedule)
        if works:
            self.embedded.wake()
        return row, True

    def drain_rehearsal(self, at: float) -> int:
        """Let what is kept in memory count as sent, as far as it is due by then."""
        return self.rehearsal.drain(at, self._rehearsed)

    def _rehearsed(self, row: Rehearsed) -> None:
        receipt = Receipt.same(row.submission, Accepted())
        tell_drained(self.app, row.message, receipt, row.id)

    # --- the worker inside the app ---

    def start_worker(self) -> bool:
        """Start the embedded worker where there is to be one; tell whether it runs."""
        if self.settings.worker != "embedded" or not starting.may_start(self.app):
            return False
        self.embedded.ensure()
        return True

    def look_once(self) -> None:
        """With a process's first request, send what waited while no process ran."""
        pid = os.getpid()
        if self._looked == pid:
            return
        self._looked = pid
        starting.requests_seen.add(pid)
        if self.settings.worker != "embedded" or self.suppressed or not self.file.exists():
            return
        try:
            from flask_outbox.outbox.claim import has_open  # noqa: PLC0415  brings SQLAlchemy

            if has_open(self.outbox):
                self.start_worker()
        except Exception:  # noqa: BLE001  a request does not fail for it
            self._looked = None
            starting.log.exception(
                "The outbox could not be looked at; the next request tries again."
            )

    def observe(self, recorded: Any) -> None:
        """Tell the app's listeners what became of a message, in a context of its own."""
        tell_recorded(self.app, recorded, Message)

    def close(self) -> None:
        """Stop and close what was made."""
        with self._making:
            made, self._made = self._made, {}
        for name in ("embedded", "pool", "async_pool", "outbox"):
            if name in made:
                made[name].stop() if name == "embedded" else made[name].close()

    def forget_lock(self) -> None:
        """Begin anew in a child: a lock that was held at the fork would be held for ever."""
        self._making = threading.RLock()


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


_all: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_all):
        runtime.forget_lock()


os.register_at_fork(after_in_child=_after_fork)
