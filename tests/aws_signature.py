"""Check a signature of AWS by the letter of its documentation, and by no library.

docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html, read 2026-11-29.
"""

import hmac
from functools import reduce
from hashlib import sha256

from hostile_http import Asked


def is_signed(asked: Asked, secret: str, begins: str, ends: str) -> bool:
    """Tell whether all of a request is signed with the secret of a key of this scope."""
    words = asked.headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(", ")
    given = dict(word.split("=", 1) for word in words)
    _, _, scope = given["Credential"].partition("/")
    signed = given["SignedHeaders"].split(";")
    assert given["Credential"].startswith(begins)
    assert given["Credential"].endswith(ends)
    assert {"host", "x-amz-date", "content-type"} <= set(signed)
    assert ("x-amz-security-token" in asked.headers) == ("x-amz-security-token" in signed)
    fields = "".join(f"{name}:{asked.headers[name]}\n" for name in signed)
    lines = (asked.method, asked.path, "", fields, ";".join(signed), sha256(asked.body).hexdigest())
    canonical = sha256("\n".join(lines).encode()).hexdigest()
    to_sign = "\n".join(("AWS4-HMAC-SHA256", asked.headers["x-amz-date"], scope, canonical))
    key = reduce(_hmac, scope.split("/"), f"AWS4{secret}".encode())
    return _hmac(key, to_sign).hex() == given["Signature"]


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
