"""``flask outbox dkim-keygen``: a key, its record in DNS, and the settings. See cli.py."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flask_outbox.app import reading_dkim
from flask_outbox.app.commands import outbox
from flask_outbox.app.reading import Parse
from flask_outbox.app.signing import NOT_INSTALLED
from flask_outbox.mail.errors import ConfigurationError

if TYPE_CHECKING:
    from flask_outbox.transports.dkim_key import DkimKey

STRING = 255  # octets of one string of a TXT record (RFC 1035 section 3.3)
BITS = 2048  # of RSA: what RFC 8301 asks for; receivers need to know no more than 4096


def _checked(parse: Parse) -> Callable[[click.Context, click.Parameter, str], str]:
    """Read an option as the setting of that name is read."""

    def callback(_: click.Context, __: click.Parameter, value: str) -> str:
        try:
            parsed = parse("It", value)
        except ConfigurationError as error:
            raise click.BadParameter(str(error)) from None
        if not parsed:
            raise click.BadParameter("It must not be empty.")
        return str(parsed)

    return callback


def _a_file(_context: click.Context, _option: click.Parameter, value: Path) -> Path:
    if str(value) == "-":
        raise click.BadParameter("A private key is not printed: name a file.")
    return value


@outbox.command("dkim-keygen")
@click.option(
    "--domain",
    required=True,
    callback=_checked(reading_dkim.domain),
    metavar="DOMAIN",
    help="The domain of your senders, or one above it.",
)
@click.option(
    "--selector",
    default="outbox",
    show_default=True,
    callback=_checked(reading_dkim.selector),
    metavar="NAME",
    help="What this key is called below the domain; another for each key.",
)
@click.option(
    "--type",
    "kind",
    default="rsa",
    show_default=True,
    type=click.Choice(("rsa", "ed25519")),
    help="Every receiver reads RSA; not every one reads Ed25519 yet.",
)
@click.option(
    "--bits", type=click.IntRange(BITS, 4096), help=f"The size of an RSA key; by default {BITS}."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_a_file,
    metavar="FILE",
    help="Where the private key goes: a new file, that its owner alone may read.",
)
def dkim_keygen(domain: str, selector: str, kind: str, bits: int | None, out: Path) -> None:
    """Make a DKIM key; print the TXT record to publish, and the settings.

    The private key is written to a file, as PEM, and shown nowhere.
    """
    if kind != "rsa" and bits is not None:
        raise click.UsageError("--bits is for --type rsa: an Ed25519 key has one size.")
    try:
        key = _made(domain, selector, kind, bits or BITS)
    except ImportError:
        raise click.ClickException(NOT_INSTALLED) from None
    _write(out, key)
    _print(out, key)


def _made(domain: str, selector: str, kind: str, bits: int) -> "DkimKey":
    from cryptography.hazmat.primitives.asymmetric import (  # noqa: PLC0415  see cli.py
        ed25519,
        rsa,
    )

    from flask_outbox.transports.dkim_key import DkimKey  # noqa: PLC0415  brings cryptography

    if kind == "rsa":
        return DkimKey(domain, selector, rsa.generate_private_key(65537, bits))
    return DkimKey(domain, selector, ed25519.Ed25519PrivateKey.generate())


def _write(out: Path, key: "DkimKey") -> None:
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415  see cli.py
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(
            f"{out} exists already, and a key that is lost cannot be made again: name another file."
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it cannot be a file's name"
        raise click.ClickException(f"{out} cannot be written: {why}.") from None
    with os.fdopen(file, "wb") as stream:
        stream.write(pem)


def _print(out: Path, key: "DkimKey") -> None:
    strings = [key.record[at : at + STRING] for at in range(0, len(key.record), STRING)]
    lines = "\n".join(f'  "{each}"' for each in strings)
    click.echo(f"The private key is in {out}: its owner alone may read it.\n")
    click.echo("Publish this TXT record:\n")
    click.echo(f"{key.name}. IN TXT (\n{lines}\n)\n")
    if len(strings) > 1:
        click.echo(
            "In a form that takes one value, write the strings as one, without the quotes.\n"
        )
    click.echo("When it can be looked up, set:\n")
    click.echo(f"MAIL_DKIM_DOMAIN={key.domain}")
    click.echo(f"MAIL_DKIM_SELECTOR={key.selector}")
    click.echo(f"MAIL_DKIM_KEY_FILE={out.absolute()}")
    if key.algorithm != "rsa-sha256":
        click.echo("\nSign by an RSA key, too, with MAIL_DKIM_KEYS: some receivers read no other.")
