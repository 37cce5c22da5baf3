"""What an app's mail needs and what is made of it on first use: lines, outbox, worker, ways out.

An app that only calls ``mail.send`` gets a pool of lines, and nothing else: the outbox, its
workers and SQLAlchemy come with the first ``send_later``.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask

from flask_outbox.app import engines, fingerprints, privacy, signing, starting, ways_out
from flask_outbox.app.failover import Health, Way
from flask_outbox.app.flask_mail import Message, _Mail
from flask_outbox.app.preparing import Hooks
from flask_outbox.app.reading_limits import limits_of, must_be_known
from flask_outbox.app.reading_ways import must_be_a_name
from flask_outbox.app.settings import Settings
from flask_outbox.app.telling import tell_alert, tell_recorded
from flask_outbox.app.tenants import Tenants
from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.submission import Submission
from flask_outbox.outbox.forks import OwnLock
from flask_outbox.transports.base import Transport

if TYPE_CHECKING:
    from flask_outbox.app.joined import Joined
    from flask_outbox.outbox.database import Outbox
    from flask_outbox.outbox.workers import Badge
    from flask_outbox.transports.dkim import Keys
    from flask_outbox.wire import aio, sync
    from flask_outbox.worker.embedded import Embedded
    from flask_outbox.worker.engine import Engine, Wakes
    from flask_outbox.worker.plan import Plan

T = TypeVar("T")

IN_A_WORKER = 600.0  # seconds for one message, where nobody waits
FILE = "outbox.sqlite3"


def _as_it_is(transport: Transport) -> Transport:
    return transport


class Made:
    """One per app, under its runtime."""

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
        self.app = app
        self.state = state
        self.settings = settings
        self.engine = engine  # the app's own, if it has one
        self.joined = joined  # the app's database, if mail is kept there
        self._making = OwnLock()
        self._made: dict[str, Any] = {}
        self.hooks = hooks
        self.health = Health()
        self._ways: dict[str, tuple[object, Way]] = {}

    def __repr__(self) -> str:
        return f"<flask_outbox runtime of {self.app.name!r}>"

    def _once(self, name: str, make: Callable[[], T]) -> T:
        if name not in self._made:
            with self._making.here():
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
        keyring = privacy.keyring(self.app, settings)
        outbox = Outbox(
            self.where,
            lease=settings.lease,
            patience=patience,
            keyring=keyring,
            rates=limits_of(settings),
            schema=None if self.joined is None else self.joined.metadata.schema,
        )
        weakref.finalize(self, outbox.close)
        return outbox

    @property
    def where(self) -> Any:
        """Where the outbox is: the app's own database, the URL of a server, or a file.

        A relative path is one below the instance folder.
        """
        if self.joined is not None:
            return self.joined.engine(self.app)
        url = self.settings.outbox_url or f"sqlite:///{FILE}"
        if not url.startswith("sqlite:"):
            return url
        return Path(self.app.instance_path, url.removeprefix("sqlite:///"))

    @property
    def exists(self) -> bool:
        """Whether there may be mail; a file is not made by being asked for."""
        if self.joined is not None:
            return not self.joined.is_in_memory(self.app)
        where = self.where
        return where.exists() if isinstance(where, Path) else True

    @property
    def table(self) -> Any:
        """Our table among the app's, if it is there."""
        return None if self.joined is None else self.joined.table()

    @property
    def place(self) -> str:
        """Where the outbox is, for a person; without a password."""
        where = self.where
        return str(where if isinstance(where, Path) else self.outbox.database)

    @property
    def embedded(self) -> "Embedded":
        """The worker of this app and process."""
        return self._once("embedded", self._make_embedded)

    def _make_embedded(self) -> "Embedded":
        from flask_outbox.worker.embedded import Embedded  # noqa: PLC0415  made on first use

        return Embedded(self.plan, starting.must_leave)

    @property
    def is_embedded(self) -> bool:
        """Whether a thread of this app sends."""
        return self.engine is None and self.settings.worker == "embedded"

    @property
    def wakes(self) -> "Wakes | None":
        """What tells an engine of new mail; None where workers look by themselves.

        Raises ConfigurationError where the engine cannot be used as it is.
        """
        return self._once("wakes", self._make_wakes)

    def _make_wakes(self) -> "Wakes | None":
        engine = self.engine
        if engine is None and self.settings.worker == "celery":
            engine = engines.of_celery(self.app)
        if engine is None:
            engine = engines.of_database(self.outbox)
        if engine is None:
            return None
        from flask_outbox.worker.engine import Wakes  # noqa: PLC0415  made on first use

        return Wakes(engines.InContext(self.app, engine))

    # --- the ways out ---

    def names(self) -> list[str]:
        """List the transports by name."""
        return list(dict.fromkeys(["default", *self.settings.transports]))

    def routes(self) -> list[str]:
        """List the routes of all of them by name."""
        return [route for name in self.names() for route in self.way(name).routes]

    def way(self, name: str = "default") -> Way:
        """Give a transport by name; the default one follows the live fields of the state.

        Raises MessageError for a name that is not configured, and not the loader's either.
        """
        if name not in self.names():
            return ways_out.single(name, self._loader(name)(name))
        fixed = name != "default" or self.has_url
        key = () if fixed else ways_out.live(self.state)
        held = self._ways.get(name)
        if held is None or held[0] != key:
            made = ways_out.configured(self.settings, name) or ways_out.single(
                name, ways_out.from_fields(self.state, self.settings)
            )
            self._ways[name] = held = (key, made)
        return held[1]

    def transport(self, name: str = "default") -> Transport:
        """Give what stands at the end of its first route."""
        return self.way(name).first

    def transport_is_known(self, name: str) -> None:
        """Raise MessageError for a name that is not configured, where no loader is asked."""
        if name not in self.names():
            self._loader(name)

    def _loader(self, name: str) -> Tenants:
        tenants = self.tenants
        if tenants is None:
            raise MessageError(
                f"transport must be one of MAIL_TRANSPORTS: {', '.join(map(repr, self.names()))}."
            )
        must_be_a_name("transport", name, MessageError)
        if name in self.routes():
            raise MessageError(f"transport: {name!r} is the name of a route, and none of a tenant.")
        return tenants

    @property
    def tenants(self) -> Tenants | None:
        """What loads transports of other names, where the app has a loader."""
        load = self.hooks.load_transport
        return None if load is None else self._once("tenants", lambda: Tenants(self.app, load))

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
        routes = self.routes()
        if len(set(routes)) < len(routes):
            twice = next(each for each in routes if routes.count(each) > 1)
            raise ConfigurationError(
                f"MAIL_TRANSPORTS has a name that is also a route's of another, {twice!r}: choose"
                " another name."
            )
        ways = [self.way(name) for name in self.names()]
        ways_out.check_token(self.settings, (each for way in ways for each in way.routes.values()))
        if self.tenants is None:
            must_be_known(self.settings, self.names())
        if self.engine is None and self.settings.worker == "celery":
            engines.celery_is_installed()
        ways_out.check_tls_files(self.settings)
        _ = self.dkim_keys

    @property
    def dkim_keys(self) -> "Keys":
        """The keys of MAIL_DKIM_*; raises ConfigurationError where one cannot be used."""
        if not signing.is_on(self.settings):
            return {}
        return self._once("dkim_keys", lambda: signing.load(self.settings))

    def sign(self, submission: Submission, transport: Transport) -> Submission:
        """Sign what leaves now by a transport, where that sends it on as it is."""
        keys = self.dkim_keys
        if not keys:
            return submission
        from flask_outbox.transports.carries import is_signed_by_us  # noqa: PLC0415  if it is asked

        if not is_signed_by_us(transport.carries):
            return submission
        from flask_outbox.transports.dkim import sign  # noqa: PLC0415  brings cryptography

        return sign(submission, keys)

    def plan(self) -> "Plan":
        """Say what a worker works with."""
        from flask_outbox.app.overhear import Overheard  # noqa: PLC0415  in workers only
        from flask_outbox.worker.plan import Plan  # noqa: PLC0415  in workers only

        _ = self.dkim_keys  # a worker that could not sign would better not begin
        ways = [self.way(name) for name in self.names()]
        tenants = self.tenants
        heard = Overheard if self.state.debug else _as_it_is
        return Plan(
            outbox=self.outbox,
            transports={name: heard(each) for way in ways for name, each in way.routes.items()},
            routings=[way.routing for way in ways],
            load=None if tenants is None else lambda name: heard(tenants(name)),
            connections=self.settings.connections,
            timeout=self.settings.timeout or IN_A_WORKER,
            grace=self.settings.grace,
            observe=self.observe,
            alert=lambda alert: tell_alert(self.app, alert),
            badge=self.badge(),
            sign=self.sign,
            retention=self._once("retention", lambda: privacy.retention(self.settings)),
        )

    def badge(self) -> "Badge":
        """Say what this app runs with, for workers to be compared with."""
        return fingerprints.badge(self.app, self.settings, self.state)

    def observe(self, recorded: Any) -> None:
        """Tell the app's listeners what became of a message, in a context of its own."""
        tell_recorded(self.app, recorded, Message)

    def close(self) -> None:
        """Stop and close what was made."""
        with self._making.here():
            made, self._made = self._made, {}
        for name in ("embedded", "wakes"):
            if made.get(name) is not None:
                made[name].stop()
        for name in ("pool", "async_pool", "outbox"):
            if name in made:
                made[name].close()
