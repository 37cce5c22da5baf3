"""botocore, for what nobody writes twice: where a machine's credentials are, and a signature.

The chain is botocore's: the environment, the files of a profile, what a container or an instance is
given by its role. It is asked anew every five minutes, so that a changed file takes effect; what
expires renews itself. Nothing of it is used across a fork.
"""

import logging
import os
from dataclasses import replace
from time import monotonic
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.session import Session

from flask_outbox.mail.errors import WireError
from flask_outbox.mail.exchange import HttpRequest, Sign

KEPT = 300.0  # seconds

_kept: tuple[int, float, Credentials] | None = None


class _NoRequest(logging.Filter):
    """What botocore logs of a request before it signs it holds the token of a session."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("CanonicalRequest")


logging.getLogger("botocore.auth").addFilter(_NoRequest())


def sign(question: Sign) -> HttpRequest:
    """Give the request with its signature; raise WireError where there are no credentials."""
    request = question.request
    try:
        credentials = Credentials(*question.account) if question.account else _found()
        signed = AWSRequest(
            method=request.method,
            url=request.url,
            headers={**request.headers, "host": urlsplit(request.url).netloc},
            data=request.body,
        )
        frozen = credentials.get_frozen_credentials()
        SigV4Auth(frozen, question.service, question.region).add_auth(signed)
    except WireError:
        raise
    except Exception as error:  # its text may hold a secret
        raise WireError(f"AWS credentials failed with {type(error).__name__}") from error
    return replace(request, headers=dict(signed.headers.items()))


def _found() -> Credentials:
    global _kept  # noqa: PLW0603  one for a process, as its environment is
    kept = _kept
    if kept is not None and kept[0] == os.getpid() and monotonic() < kept[1]:
        return kept[2]
    found = Session().get_credentials()
    if found is None:
        raise WireError(
            "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " AWS_PROFILE, or give the machine a role"
        )
    _kept = (os.getpid(), monotonic() + KEPT, found)
    return found


def forget() -> None:
    """Look for credentials anew at the next signature."""
    global _kept  # noqa: PLW0603  the same
    _kept = None
