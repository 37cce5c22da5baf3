"""``flask outbox lint``: what mails would be blamed for. It needs no outbox. See cli.py."""

import sys
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flask_outbox.app import printing
from flask_outbox.app.cli import as_json
from flask_outbox.app.commands import outbox
from flask_outbox.mail.errors import MessageError

if TYPE_CHECKING:
    from flask_outbox.mail.lint import Finding

LARGEST = 64 * 1024 * 1024  # octets


@outbox.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
)
@click.option("--spam/--no-spam", default=True, help="Ask SpamAssassin, where it is installed.")
@as_json
def lint(files: Sequence[str], spam: bool, as_json: bool) -> None:  # noqa: FBT001  click's
    """Say what the mails in .eml files would be blamed for; - reads one from stdin.

    No text part, HTML that Gmail clips, images without alt, links that mislead, list mail without
    List-Unsubscribe, passwords, keys and card numbers, and a bad score from SpamAssassin.

    Status 0: nothing worse than info. 1: errors or warnings. 2: a file is no mail.
    """
    unusable, bad = False, False
    told: list[dict[str, object]] = []
    for file in files:
        name = click.format_filename(file)
        try:
            found = _look(file, spam=spam)
        except (MessageError, OSError) as error:
            unusable = True
            why = str(error) if isinstance(error, MessageError) else error.strerror
            told.append({"file": name, "error": why})
            click.echo(f"{name}: {why}", err=True)
            continue
        bad = bad or any(each.severity.value != "info" for each in found)
        told.append({"file": name, "findings": found})
        if not as_json:
            _show(name, found)
    if as_json:
        printing.as_json(told)
    sys.exit(2 if unusable else int(bad))


def _look(file: str, *, spam: bool) -> "list[Finding]":
    from flask_outbox.app.linting import lint_content  # noqa: PLC0415  see cli.py

    if file == "-":
        content = sys.stdin.buffer.read(LARGEST + 1)
    else:
        with Path(file).open("rb") as opened:
            content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise MessageError(f"this is no mail: it has more than {LARGEST // 1024**2} MB")
    return lint_content(content.removeprefix(BOM_UTF8), spam=spam)  # which some editors add


def _show(name: str, found: "Sequence[Finding]") -> None:
    if not found:
        click.echo(f"{name}: nothing found")
        return
    click.echo(f"{name}:")
    printing.table(
        ("SEVERITY", "RULE", "FINDING"),
        [(each.severity.value, each.rule, each.text) for each in found],
    )
