"""Ways: which transports a worker sends for, their routes, and what stands at the end of each.

What is configured is known from the start. Besides it an app may have a loader, which makes a
transport of a name when there is mail for it: so each of a thousand tenants has a way out of its
own, and the outbox knows nothing of it but the name.
"""

from collections.abc import Callable, Mapping, Sequence

from flask_outbox.mail.exchange import Conversation, Report
from flask_outbox.mail.outcome import Deferred, Fault
from flask_outbox.mail.route import Routing
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.waiting import due_besides, next_due
from flask_outbox.transports.base import Transport
from flask_outbox.transports.carries import Carries
from flask_outbox.worker.say import say
from flask_outbox.worker.unexpected import place

Load = Callable[[str], Transport]

TAKEN = "(a name that is a route's)"  # the route of a tenant with such a name: none of ours


class Missing:
    """In place of a transport that could not be loaded: nothing leaves, and its route pauses."""

    name = "missing"
    carries = Carries()

    def __init__(self, why: str) -> None:
        self._why = why

    def send(self, submissions: Sequence[Submission]) -> Conversation:
        """Report each as deferred."""
        for each in submissions:
            yield Report(each, Receipt.same(each, Deferred(self._why, Fault.OURS)))


class Ways:
    """``transports`` by route; ``routings`` say which of them are one transport's.

    Each of the others is a transport by itself. ``load`` is asked for each window anew.
    """

    def __init__(
        self,
        transports: Mapping[str, Transport],
        routings: Sequence[Routing] = (),
        load: Load | None = None,
    ) -> None:
        several = {name for each in routings for name in each.routes}
        alone = [Routing.single(name) for name in transports if name not in several]
        self._transports = transports
        self._routings = {each.transport: each for each in (*alone, *routings)}
        self._load = load

    @property
    def names(self) -> list[str]:
        """The transports that are configured."""
        return list(self._routings)

    @property
    def loads(self) -> bool:
        """Whether there may be more than those."""
        return self._load is not None

    def is_loaded(self, route: str) -> bool:
        """Whether it is none that is configured."""
        return route not in self._transports

    def routing(self, transport: str) -> Routing:
        """Tell the routes of a transport; a loaded one has one, and never one of another's."""
        taken = transport in self._transports
        alone = Routing(transport, ({TAKEN: 1.0},)) if taken else Routing.single(transport)
        return self._routings.get(transport, alone)

    def transport(self, route: str) -> Transport:
        """Give what stands at the end of a route; loads it where it is none that is configured."""
        known = self._transports.get(route)
        if known is not None:
            return known
        if route == TAKEN:
            return Missing("a transport that was to be loaded has the name of a route")
        if self._load is None:
            return Missing(f"route {route} is not configured")
        return self._try(self._load, route)

    def window(self, route: str) -> int:
        """How many submissions one line takes, as far as that is known without loading it."""
        known = self._transports.get(route)
        return 1 if known is None else known.carries.window

    def due(self, outbox: Outbox) -> list[str]:
        """Name the transports to be loaded that have mail which may go now."""
        return due_besides(outbox, self._routings) if self.loads else []

    def next_due(self, outbox: Outbox) -> float | None:
        """Tell when the next message may go, by the database's clock; None: never."""
        return next_due(outbox, self.names, self.routing, besides=self.loads)

    def _try(self, load: Load, name: str) -> Transport:
        try:
            return load(name)
        except Exception as error:  # noqa: BLE001  the app's own code
            say.error("transport %s could not be loaded: %s", name, place(error))
            return Missing(f"transport {name} could not be loaded: {type(error).__name__}")
