"""How MAIL_DKIM_* are read; what is in a key is for ``signing.py`` to see. As in reading.py."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flask_outbox.app.reading import text, wrong
from flask_outbox.mail.address import parse_address
from flask_outbox.mail.errors import ConfigurationError, MessageError

Given = tuple[str, str, str]  # domain, selector, PEM

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,3}}")  # RFC 6376 section 3.1
_NAMES = frozenset({"domain", "selector", "key", "key_file"})


def domain(key: str, value: object) -> str | None:
    """Read a domain, as submissions have it: lower-case A-labels."""
    name = text(key, value)
    try:
        return name and parse_address(f"x@{name}", key).domain
    except MessageError:
        raise wrong(key, "a domain, like 'example.com'") from None


def selector(key: str, value: object) -> str | None:
    """Read a selector: letters, digits and hyphens, perhaps in parts between dots."""
    name = text(key, value)
    if name is not None and not _SELECTOR.fullmatch(name):
        raise wrong(key, "letters, digits and hyphens, like 'mail2026'")
    return name


def keys(key: str, value: object) -> tuple[Given, ...]:
    """Read several keys, each a mapping; from the environment, a JSON list."""
    if isinstance(value, str):
        value = json.loads(value) if value.strip() else None
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise _wrong(key)
    several = cast("list[object] | tuple[object, ...]", value)
    return tuple(_given(f"{key}[{place}]", each) for place, each in enumerate(several))


def _given(key: str, value: object) -> Given:
    if not isinstance(value, Mapping):
        raise _wrong(key)
    parts = cast("Mapping[object, Any]", value)
    if parts.keys() - _NAMES or ("key" in parts) == ("key_file" in parts):
        raise _wrong(key)
    whose = domain(f"{key}['domain']", parts.get("domain"))
    which = selector(f"{key}['selector']", parts.get("selector"))
    pem = parts["key"] if "key" in parts else _content(f"{key}['key_file']", parts["key_file"])
    if not (whose and which and isinstance(pem, str)):
        raise _wrong(key)
    return whose, which, pem


def _content(key: str, name: object) -> str:
    try:
        return Path(str(name)).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{key} must name a file that can be read: {type(error).__name__}."
        ) from None


def _wrong(key: str) -> ConfigurationError:
    whole = "" if key.endswith("]") else "a list of "
    each = "mappings" if whole else "a mapping"
    return wrong(key, f"{whole}{each} with 'domain', 'selector', and 'key' or 'key_file'")
