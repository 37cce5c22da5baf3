"""The schema's way from version to version, by Alembic; expand first, contract later.

Where an app keeps our tables among its own (``Mail(app, db=db)``), its migrations may call ours,
which then keep no version of their own::

    from flask_outbox import migrations

    def upgrade():
        migrations.upgrade("0005")  # all of ours, up to that one

    def downgrade():
        migrations.downgrade("0005")

And when a later release brings another: ``migrations.upgrade("0006", after="0005")``.
``migrate`` is what ``flask outbox upgrade`` and the first use of an older SQLite file call.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from flask_outbox.mail.errors import ConfigurationError


def config(connection: Connection | None = None, schema: str | None = None) -> Config:
    """Give Alembic our scripts, and the connection to use."""
    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent))
    found.attributes["connection"] = connection
    found.attributes["schema"] = schema
    return found


def migrate(connection: Connection, to: str = "head", schema: str | None = None) -> None:
    """Bring the tables to a version, in the transaction of the connection."""
    command.upgrade(config(connection, schema), to)


def upgrade(to: str, *, after: str | None = None) -> None:
    """Run our revisions up to one of them, within a migration of an app's own.

    ``after``: leave out those up to this one, which an earlier migration of the app has run.
    """
    for each in _steps(to, after):
        each.module.upgrade()


def downgrade(to: str, *, after: str | None = None) -> None:
    """Take back what ``upgrade`` did with the same arguments."""
    for each in reversed(_steps(to, after)):
        each.module.downgrade()


def _steps(to: str, after: str | None) -> list[Script]:
    ours = sorted(ScriptDirectory.from_config(config()).walk_revisions(), key=lambda x: x.revision)
    names = [each.revision for each in ours]
    if to not in names or after not in {None, *names[: names.index(to)]}:
        raise ConfigurationError(
            f"migrations.upgrade and downgrade take one of {', '.join(names)}, and after= one"
            " before it."
        )
    return [each for each in ours if (after or "") < each.revision <= to]
