"""How one value of the configuration is read: from Python as it is, from the environment parsed.

Each function gets the key, for the text of its error, and the value; it gives what Settings holds
or raises ConfigurationError. No text repeats the value, which may be a secret.
"""

import base64
import ipaddress
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from flask_outbox.mail.address import Address, parse_address
from flask_outbox.mail.errors import ConfigurationError, MessageError

TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
FALSE = frozenset({"0", "false", "f", "no", "n", "off", ""})
NOTHING = frozenset({"", "none", "null"})
SHORTEST_LEASE = 1.0  # seconds
LONGEST = 1e9  # seconds: thirty years, and less than what a thread can be told to wait

Parse = Callable[[str, Any], Any]


def wrong(key: str, wanted: str) -> ConfigurationError:
    """Say what the key should look like."""
    return ConfigurationError(f"{key} must be {wanted}.")


def truth(key: str, value: object) -> bool:
    """Read a bool; "False" from the environment is false."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in TRUE or word in FALSE:
            return word in TRUE
    elif value is None or isinstance(value, (bool, int)):
        return bool(value)
    raise wrong(key, "true or false")


def optional_truth(key: str, value: object) -> bool | None:
    """Read a bool that may also be left open."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NOTHING):
        return None
    return truth(key, value)


def level(key: str, value: object) -> int:
    """Read a debug level: a bool, or a number as smtplib takes it."""
    if isinstance(value, str) and value.strip().isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else truth(key, value)


def text(key: str, value: object) -> str | None:
    """Read a text; an empty one is none."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise wrong(key, "a text")
    return value.strip() or None


def secret(key: str, value: object) -> str | None:
    """Read a text as it stands."""
    if value is not None and not isinstance(value, str):
        raise wrong(key, "a text")
    return value or None


def fingerprint(key: str, value: object) -> str | None:
    """Read a SHA-256 fingerprint, with or without colons."""
    digits = (text(key, value) or "").replace(":", "").lower()
    if digits and (len(digits) != 64 or set(digits) - set("0123456789abcdef")):  # noqa: PLR2004  SHA-256
        raise wrong(key, "a SHA-256 fingerprint: 64 hex digits")
    return digits or None


def readable(key: str, value: object) -> str | None:
    """Read the name of a file, which has to be there."""
    name = text(key, value)
    try:
        can_be_read = name is None or os.access(name, os.R_OK)
    except ValueError:  # a NUL, or what is in no file system's encoding
        can_be_read = False
    if not can_be_read:
        raise wrong(key, "the name of a file that can be read")
    return name


def server(key: str, value: object) -> str:
    """Read a host name; whether an empty one will do depends on what it is for."""
    name = text(key, value) or ""
    if set(name) & set(":/@") and not _is_ip(name):
        raise ConfigurationError(
            f"{key} must be a host name or an address alone: the port belongs into MAIL_PORT, and a"
            " URL into MAIL_TRANSPORT."
        )
    return name


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def web_address(key: str, value: object) -> str | None:
    """Read where a web site begins."""
    name = text(key, value)
    if name is not None and not _is_web_address(name):
        raise wrong(key, "a URL, like 'https://shop.example.com'")
    return name


def _is_web_address(name: str) -> bool:
    """Tell whether a link is made by writing a path behind it."""
    if not name.isprintable() or set(name) & set(" ?#"):
        return False
    try:
        parts = urlsplit(name)
        return parts.scheme in {"https", "http"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is left open
        return False


def whole(least: int, most: int | None = None) -> Parse:
    """Read a whole number within bounds."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(key: str, value: object) -> int:
        try:
            number = int(value) if isinstance(value, (str, int, float)) else None
        except ValueError:
            number = None
        fits = number is not None and number >= least and (most is None or number <= most)
        if (
            number is None
            or isinstance(value, bool)
            or not fits
            or number != float(cast("Any", value))
        ):
            raise wrong(key, f"a whole number {bounds}")
        return number

    return parse


def optional(parse: Parse) -> Parse:
    """Let a value be left out."""

    def either(key: str, value: object) -> Any:
        empty = value is None or (isinstance(value, str) and value.strip().lower() in NOTHING)
        return None if empty else parse(key, value)

    return either


def seconds(key: str, value: object) -> float:
    """Read a length of time: a number of seconds, or a timedelta."""
    total = getattr(value, "total_seconds", None)
    try:
        number = float(cast("Any", total() if callable(total) else value))
    except (TypeError, ValueError):
        number = 0.0
    if not 0.0 < number <= LONGEST or isinstance(value, bool):
        raise wrong(key, f"a number of seconds above 0, and of {LONGEST:,.0f} at most")
    return number


def lease(key: str, value: object) -> float:
    """Read a length of time that a worker can keep up with."""
    number = seconds(key, value)
    if number < SHORTEST_LEASE:
        raise ConfigurationError(
            f"{key} must be {SHORTEST_LEASE:g} second or more: a worker renews its leases four"
            " times in that time, and where it is late, as on a busy machine, mail is sent twice."
        )
    return number


def words(key: str, value: object) -> tuple[str, ...]:
    """Read a list of texts; from the environment, comma-separated or JSON."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else value.split(",")
    if value is None:
        return ()
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise wrong(key, "a list of texts")
    several = cast("list[object]", list(value))  # pyright: ignore[reportUnknownArgumentType]
    if not all(isinstance(each, (str, os.PathLike)) for each in several):
        raise wrong(key, "a list of texts")
    return tuple(word for each in several if (word := str(each).strip()))


def folders(key: str, value: object) -> tuple[str, ...]:
    """Read a list of folders, which have to be there, wherever the app was started."""
    names = words(key, value)
    for place, name in enumerate(names):
        if not Path(name).is_absolute():
            raise ConfigurationError(
                f"{key}[{place}] must be an absolute path: put app.root_path or app.instance_path"
                " before it."
            )
        if not os.path.isdir(name):  # noqa: PTH112  Path.is_dir() raises where it may not look
            raise ConfigurationError(
                f"{key}[{place}] must be a folder that exists: make it, or correct its path."
            )
    return names


def address(key: str, value: object) -> Address:
    """Read one address."""
    try:
        return parse_address(cast("Any", value), key)
    except MessageError as error:
        raise ConfigurationError(
            f"{key} must be an address, like 'shop@example.com' or 'Shop <shop@example.com>'."
        ) from error


def addresses(key: str, value: object) -> tuple[Address, ...]:
    """Read one address or several."""
    return tuple(address(key, each) for each in words(key, value))


def sender(key: str, value: object) -> str | tuple[str, str] | None:
    """Read what Flask-Mail takes: a text or a pair of name and address, and check it."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = json.loads(value)
    if isinstance(value, (list, tuple)):
        pair = tuple(str(each) for each in cast("list[object]", value))
        if len(pair) != 2:  # noqa: PLR2004  a pair
            raise wrong(key, "an address, or a pair of name and address")
        address(key, pair)
        return (pair[0], pair[1])
    address(key, str(value))
    return str(value)


def one_of(*choices: str) -> Parse:
    """Read a word of a few."""

    def parse(key: str, value: object) -> str:
        if value not in choices:
            raise wrong(key, " or ".join(repr(choice) for choice in choices))
        return str(value)

    return parse


def token_source(key: str, value: object) -> Callable[[], str]:
    """Read a function that gives an OAuth 2 token."""
    if not callable(value):
        raise wrong(key, "a function without arguments that returns a fresh token")
    return cast("Callable[[], str]", value)


def outbox_url(key: str, value: object) -> str:
    """Read where the outbox lives: in an SQLite file, or on a server."""
    if isinstance(value, str) and _SERVER.fullmatch(value):
        return value
    if not isinstance(value, str) or not value.startswith("sqlite:///") or value == "sqlite:///":
        raise ConfigurationError(
            f"{key} must be the URL of a database, like 'sqlite:////var/lib/shop/outbox.sqlite',"
            " 'postgresql://user:password@host/database' or 'mysql://user:password@host/database'."
        )
    _check_sqlite_file(key, value.removeprefix("sqlite:///"))
    return value


_SERVER = re.compile(
    r"(postgres|postgresql|mysql|mariadb)(\+\w+)?://[^\s\x00-\x1f]*/[^\s/?]+(\?\S*)?"
)


def _check_sqlite_file(key: str, name: str) -> None:
    if name == ":memory:":
        raise ConfigurationError(
            f"{key} must be the URL of a file, which outlives the process: for an outbox in memory"
            " set TESTING or MAIL_SUPPRESS_SEND."
        )
    if "?" in name:
        raise ConfigurationError(f"{key} takes no parameters: leave out what begins with '?'.")
    if not name.isprintable():
        raise ConfigurationError(
            f"{key} has a character that cannot be printed, like NUL or a line break: remove it."
        )


def fernet_keys(key: str, value: object) -> tuple[str, ...]:
    """Read Fernet keys, as texts or bytes; as one text, apart by commas or white space."""
    if isinstance(value, (str, bytes)):
        text_ = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        value = json.loads(text_) if text_.lstrip().startswith("[") else _APART.split(text_)
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise wrong(key, "a list of Fernet keys")
    return tuple(
        _fernet_key(f"{key}[{place}]", each)
        for place, each in enumerate(cast("list[object] | tuple[object, ...]", value))
        if each
    )


_APART = re.compile(r"[\s,]+")


def _fernet_key(key: str, value: object) -> str:
    with suppress(ValueError):
        text_ = value.decode() if isinstance(value, bytes) else value
        if isinstance(text_, str) and len(base64.b64decode(text_, b"-_", validate=True)) == 32:  # noqa: PLR2004  octets, as the specification says
            return text_
    raise ConfigurationError(
        f"{key} must be a Fernet key, 32 octets in URL-safe base64; this makes one: python -c"
        " 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"
    )


def allowances(key: str, value: object) -> tuple[str, ...]:
    """Read addresses and domains to which mail may go: ``ada@example.org``, ``@example.com``."""
    return tuple(_allowance(key, each) for each in words(key, value))


def _allowance(key: str, word: str) -> str:
    local, _, domain = word.rpartition("@")
    try:
        if local in {"", "*"}:
            return "@" + parse_address(f"x@{domain}", key).domain
        return parse_address(word, key).addr.lower()
    except MessageError:
        raise wrong(key, "a list of addresses and domains, like '@example.com'") from None
