"""What an HTTP answer means for a mail: the table from status to outcome (RFC 9110, RFC 6585).

===========================  ================================================================
2xx                          Accepted, whatever the body says or lacks
400, 413, 414, 422, 431      Refused: it is about this mail
408, 409, other 5xx          Unclear: the request was whole, and something may have come of it
429, 503                     Deferred, ours: not now; ``Retry-After`` is believed within reason
401, 403, 404, any other     Deferred, ours: about us, our key, our URL; never about the mail
===========================  ================================================================

An answer that came before the request was whole cannot have sent a mail: what would be Unclear is
Deferred then. Only a 2xx is Unclear there, for it answers what it cannot have read.
"""

from email.utils import parsedate_to_datetime

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import HttpRequest, HttpResponse
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Outcome, Refused, Unclear
from flask_outbox.mail.retry import clamp_retry_after

BAD_REQUEST, TOO_LARGE, UNPROCESSABLE = 400, 413, 422
REFUSED = frozenset({BAD_REQUEST, TOO_LARGE, 414, UNPROCESSABLE, 431})
IN_DOUBT = frozenset({408, 409})
UNAVAILABLE = 503
CREDENTIALS = frozenset({401, 403})


def verdict(response: HttpResponse, text: str, reference: str) -> Outcome:
    """Give the outcome for all whom the request was for."""
    status = response.status
    if 200 <= status < 300:  # noqa: PLR2004  the class of a status is its first digit
        if response.sent_all:
            return Accepted(text, reference)
        return Unclear(f"{text} (before the request was whole)")
    if status in REFUSED:
        return Refused(f"{text} (too large)" if status == TOO_LARGE else text)
    if status in IN_DOUBT or (status >= 500 and status != UNAVAILABLE):  # noqa: PLR2004  the same
        return Unclear(text) if response.sent_all else Deferred(text)
    return ours(response, text)


def ours(response: HttpResponse, text: str) -> Deferred:
    """Pause the route, for as long as the far side asks where it does."""
    return Deferred(text, Fault.OURS, retry_after(response))


def broken(request: HttpRequest, error: WireError) -> Outcome:
    """Give the outcome where no answer came: it turns on the last byte of the body."""
    if request.body and error.sent >= len(request.body):
        return Unclear(f"it went out whole, but no answer came: {error}")
    return Deferred(str(error), Fault.TRANSIENT if error.sent else Fault.OURS)


def retry_after(response: HttpResponse) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3): seconds, or a date by the far side's own clock.

    None for what is neither, and for a date where there is no Date field to take it from.
    """
    text = response.header("retry-after")
    try:
        return clamp_retry_after(float(text))
    except ValueError:
        pass
    try:
        until, now = (parsedate_to_datetime(each) for each in (text, response.header("date")))
        return clamp_retry_after((until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
