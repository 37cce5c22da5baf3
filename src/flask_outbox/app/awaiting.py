"""Send now, in an event loop; apart from sending.py, so that who blocks never loads asyncio."""

from collections.abc import Awaitable, Callable

from flask_outbox.app.failover import Health, Way, tries
from flask_outbox.app.overhear import Heard, overhear
from flask_outbox.app.sending import answer, settle
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.base import Transport
from flask_outbox.wire import aio


async def send_on_loop(  # noqa: PLR0913  as Host has them
    way: Way,
    health: Health,
    sign: Callable[[Submission, Transport], Awaitable[Submission]],
    submission: Submission,
    pool: aio.Pool,
    *,
    seconds: float,
    debug: bool = False,
    configured: bool = True,
) -> Receipt:
    """Do as Host.sendmail does, in an event loop."""
    tried: list[str] = []
    heard = Heard(debug=debug)
    trying = tries(way, health, submission)
    try:
        transport, one = next(trying)
        while True:
            tried.append(transport.name)
            heard = Heard(debug=debug)
            signed = await sign(one, transport)
            conversation = overhear(transport.send([signed]), heard)
            carried = aio.carry(conversation, pool, seconds=seconds)
            receipts = [report.receipt async for report in carried]
            transport, one = trying.send(settle(receipts, signed))
    except StopIteration as over:
        return answer(over.value, heard, tried, configured=configured)
