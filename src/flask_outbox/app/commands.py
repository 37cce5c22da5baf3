"""``flask outbox``: the group of its commands, which Flask finds though the app cannot be made.

Loaded with every command of ``flask``, so the modules that have the commands are imported late.
"""

from importlib import import_module
from typing import Any

import click
from flask.cli import AppGroup

from flask_outbox.mail.errors import OutboxError


class Commands(AppGroup):
    """The group."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them."""
        _import_commands()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find one."""
        _import_commands()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one; of an outbox that cannot be used, or a wrong setting, say what to do."""
        try:
            return super().invoke(ctx)
        except OutboxError as error:
            raise click.ClickException(str(error)) from None


def _import_commands() -> None:
    for name in ("cli", "cli_mail", "cli_lint", "cli_dkim", "cli_doctor"):
        import_module(f"flask_outbox.app.{name}")


outbox = Commands("outbox", help="Mail that was sent later: look at it, retry it, send it.")
