"""``Mail``: send now, send later, send without blocking the event loop."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask

from flask_outbox.app import engines
from flask_outbox.app import settings as configuration
from flask_outbox.app.commands import outbox
from flask_outbox.app.flask_mail import _Mail, _MailMixin, runtime_of, state_of
from flask_outbox.app.joined import BIND_OF_NOTHING, Joined
from flask_outbox.app.moments import Moment, Span, schedule_of
from flask_outbox.app.preparing import BeforeSend, ChooseTransport, Hooks, check_kind, is_big
from flask_outbox.app.runtime import Runtime
from flask_outbox.app.tenants import LoadTransport
from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.fingerprint import fingerprint
from flask_outbox.mail.message import Message
from flask_outbox.mail.submission import Receipt
from flask_outbox.outbox.schedule import Priority

if TYPE_CHECKING:
    from flask_outbox.mail.lint import Finding
    from flask_outbox.outbox.status import Status
    from flask_outbox.worker.engine import Engine

Function = TypeVar("Function", bound=BeforeSend)
Chooser = TypeVar("Chooser", bound=ChooseTransport)
Loader = TypeVar("Loader", bound=LoadTransport)

LIVE = frozenset(
    {
        *("server", "username", "password", "port", "use_tls", "use_ssl", "default_sender"),
        *("debug", "max_emails", "suppress", "ascii_attachments"),
    }
)


class Mail(_MailMixin):
    """E-mail for an app: ``Mail(app)``, or ``Mail()`` and ``init_app(app)`` later.

    Flask-Mail's live fields (``server``, ``suppress`` and so on) can be read and set on it.
    ``db``: Flask-SQLAlchemy's ``SQLAlchemy()``: mail is kept among the app's tables and written in
    its transactions. ``bind``: in which of its SQLALCHEMY_BINDS, by another commit then.
    ``engine``: an engine of your own, which is told of new mail, instead of MAIL_WORKER.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        db: Any = None,
        bind: str | None = None,
        engine: "Engine | None" = None,
    ) -> None:
        self._hooks = Hooks()
        self._engine = engine
        if db is None and bind is not None:
            raise ConfigurationError(BIND_OF_NOTHING)
        self._joined = None if db is None else Joined(db, bind)
        self.app = app
        self.state: _Mail | None = None if app is None else self.init_app(app)

    def init_mail(
        self,
        config: Mapping[str, Any],
        debug: bool | int = False,  # noqa: FBT001, FBT002  Flask-Mail's signature
        testing: bool = False,  # noqa: FBT001, FBT002  the same
    ) -> _Mail:
        """Read a configuration into a state."""
        return _state(configuration.read(config, debug=int(debug)), testing=testing)

    def init_app(self, app: Flask) -> _Mail:
        """Set an app up and return its state.

        Raises ConfigurationError, which names the key and the fix, for settings that cannot work.
        """
        settings = configuration.read(app.config, debug=int(app.debug))
        configuration.warn_of_unknown(app.config)
        state = _state(settings, testing=app.testing)
        engines.check(settings, self._engine)
        runtime = Runtime(
            app, state, settings, self._hooks, engine=self._engine, joined=self._joined
        )
        if not runtime.suppressed:
            runtime.check()
        if self._joined is not None:
            self._joined.start(app, settings, suppressed=runtime.suppressed)
            if not runtime.suppressed:
                _ = runtime.outbox  # from here on no child has what the app has open
        engines.make_known(runtime)
        before = app.extensions.get("outbox")
        if isinstance(before, Runtime):
            before.close()
        else:
            # Not by app.before_request, which is closed once a request was served: tests set
            # Flask-Mail up that late.
            functions = app.before_request_funcs.setdefault(None, [])
            functions.insert(0, lambda: runtime_of(app).look_once())
        app.cli.commands.setdefault("outbox", outbox)
        app.extensions["mail"] = state
        app.extensions["outbox"] = runtime
        return state

    def __getattr__(self, name: str) -> Any:
        if name in LIVE:
            return getattr(state_of(self._app()), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in LIVE:
            setattr(state_of(self._app()), name, value)
        else:
            super().__setattr__(name, value)

    def before_send(self, function: Function) -> Function:
        """Have a function called with each message before it is sealed, in every way of sending.

        It may change the message, which is a copy of the caller's, or raise
        ``MessageCancelled(reason)``: then nothing is sent or written down, and whoever called
        send, send_later or send_async gets that exception.
        """
        self._hooks.before_send.append(function)
        return function

    def choose_transport(self, function: Chooser) -> Chooser:
        """Have a function name the transport of each message for which ``transport=`` says nothing.

        It is called with the message, in the app's context, in every way of sending, and returns a
        name or None, for the default. Another function takes its place.
        """
        self._hooks.choose_transport = function
        return function

    def load_transport(self, function: Loader) -> Loader:
        """Have a function make the transports of names that MAIL_TRANSPORTS does not have.

        It is called with the name, in the app's context, when a message is written down and when it
        is sent, at most every ten seconds for a name and process; it returns a URL, a transport, or
        None for a name that it does not know. The outbox keeps the name alone. What it raises
        pauses that route and no other; what waits stays.
        """
        self._hooks.load_transport = function
        return function

    def send(self, message: Message, *, transport: str | None = None) -> Receipt:
        """Send it now, and wait for the answer: the outcome for each recipient.

        ``transport``: one of MAIL_TRANSPORTS, or a name that ``load_transport`` knows; else as
        ``choose_transport`` says. Where it has several routes, the next is tried if nothing left by
        the first and that was not the recipient's fault.

        Raises SendError where nobody accepted it, MessageError for a message that cannot be sent
        as it is, MessageCancelled where a ``before_send`` function says so.
        """
        return super().send(message, transport=transport)

    async def send_async(self, message: Message, *, transport: str | None = None) -> Receipt:
        """Do as ``send`` does, without holding up the event loop."""
        runtime = runtime_of(self._app())
        check_kind(message)
        if is_big(message):
            import asyncio  # noqa: PLC0415  for async apps only

            prepared = await asyncio.to_thread(runtime.prepare, message, transport=transport)
        else:
            prepared = runtime.prepare(message, transport=transport)
        return await runtime.send_async(prepared)

    def send_later(  # noqa: PLR0913  all that can be said of a later sending
        self,
        message: Message,
        *,
        at: Moment | None = None,
        delay: Span | None = None,
        expires: Moment | timedelta | None = None,
        priority: Priority | str = Priority.NORMAL,
        key: str | None = None,
        transport: str | None = None,
        session: Any = None,
    ) -> str:
        """Write it down durably, for a worker to send, and return its id.

        ``at`` or ``delay``: not before. ``expires``: not begun from then on (what is in the window
        of a connection by then still goes out); a timedelta counts from when it is due, or from
        now where that is past. ``priority``: urgent, high, normal or bulk. ``key``: the same key
        again gives the id of the first call and sends nothing more; it is remembered as long as
        the row of that message, until it is pruned. ``transport``: one of MAIL_TRANSPORTS, or a
        name that ``load_transport`` knows; else as ``choose_transport`` says.
        ``session``: an SQLAlchemy session on the outbox's database, in whose transaction it is
        written: it is sent once that is committed, and never after a rollback. With ``Mail(db=db)``
        that is ``db.session``. Under TESTING, and where sending is suppressed, it is kept in
        memory.

        Raises MessageError and MessageCancelled as ``send`` does, KeyConflict for a key that was
        used for another message, OutboxUnavailable where it could not be written down,
        ConfigurationError where it is sensitive and cannot be encrypted. The id is empty where
        MAIL_ALLOW_ONLY leaves nobody to send it to.
        """
        runtime = runtime_of(self._app())
        check_kind(message)
        if key is not None and not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MessageError("key must be a text.")
        now = time.time()
        schedule = replace(
            schedule_of(at, delay, expires, now),
            priority=_priority(priority),
            key=key,
            fingerprint="" if key is None else fingerprint(message),
        )
        prepared = runtime.prepare(message, at=schedule.due(now), transport=transport)
        return runtime.enqueue(prepared, schedule, session)

    def drain(self, *, seconds: float | None = None, at_once: int | None = None) -> int:
        """Send what is due now, in this thread, and tell how many messages were tried.

        For what an engine starts. ``seconds``: begin nothing after so long; if more is due then,
        the engine is woken again. ``at_once``: do nothing where so many workers are sending with
        the same settings. Under TESTING, and where sending is suppressed, what is due counts as
        sent. Raises OutboxUnavailable.
        """
        return runtime_of(self._app()).drain(seconds, at_once)

    def cancel(self, id: str, *, session: Any = None) -> bool:  # noqa: A002  the word that users see
        """Take back what send_later wrote down; False where it has left or does not exist.

        ``session``: as in send_later; it is taken back once that is committed.
        """
        return _may_exist(id) and runtime_of(self._app()).cancel(id, session)

    def status(self, id: str) -> "Status | None":  # noqa: A002  the word that users see
        """Tell how far a message came; None where there is none of that id, or none any more."""
        return runtime_of(self._app()).status(id) if _may_exist(id) else None

    def lint(self, message: Message, *, spam: bool = True) -> "list[Finding]":
        """Say what a message would be blamed for, as it would go out; it is not sent or changed.

        ``before_send`` functions are called, with a copy; MAIL_REDIRECT_TO and MAIL_ALLOW_ONLY do
        nothing. ``spam``: with SpamAssassin's score where that is installed, for a second or so.
        Raises MessageError and MessageCancelled as ``send`` does.
        """
        from flask_outbox.app.linting import lint_message  # noqa: PLC0415  seldom needed

        return lint_message(runtime_of(self._app()), message, spam=spam)


def _may_exist(id: object) -> bool:  # noqa: A002  the word that users see
    """Tell whether an id can be somebody's; not every database can be asked for any text."""
    if not isinstance(id, str):
        raise MessageError(
            f"id must be the text that send_later returned, not {type(id).__name__}."
        )
    return id.isascii() and id.isalnum()


def _priority(value: Priority | str) -> Priority:
    try:
        return value if isinstance(value, Priority) else Priority(value)
    except ValueError:
        words = ", ".join(each.value for each in Priority)
        raise MessageError(f"priority must be one of {words}.") from None


def _state(settings: configuration.Settings, *, testing: bool) -> _Mail:
    state = _Mail(
        settings.server,
        settings.username,
        settings.password,
        settings.port,
        settings.use_tls,
        settings.use_ssl,
        settings.default_sender,
        settings.debug,
        settings.max_emails,
        settings.suppress_send,
        settings.ascii_attachments,
    )
    state.follow(testing)
    return state
