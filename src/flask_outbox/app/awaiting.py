"""Send now, in an event loop; apart from sending.py, so that who blocks never loads asyncio."""

from flask_outbox.app.overhear import Heard, overhear
from flask_outbox.app.sending import answer, settle
from flask_outbox.mail.submission import Receipt, Submission
from flask_outbox.transports.base import Transport
from flask_outbox.wire import aio


async def send_on_loop(  # noqa: PLR0913  as Host has them
    transport: Transport,
    submission: Submission,
    pool: aio.Pool,
    *,
    seconds: float,
    debug: bool = False,
    configured: bool = True,
) -> Receipt:
    """Do as Host.sendmail does, in an event loop."""
    heard = Heard(debug=debug)
    conversation = overhear(transport.send([submission]), heard)
    carried = aio.carry(conversation, pool, seconds=seconds)
    receipts = [report.receipt async for report in carried]
    return answer(settle(receipts, submission), heard, transport, configured=configured)
