"""The index on Message-IDs goes: nothing asks by them, and every write of a message kept it up.

Expands only, as no answer hangs on it. It comes back with what will ask, for the rows it needs.
"""

from alembic import op

from flask_outbox.outbox.migrations.steps import drop_index

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NAME = "ix_outbox_message_message_id"
# An index of theirs takes at most 3,072 octets.
PREFIX = {"message_id": 255}


def upgrade() -> None:
    """Take it away."""
    drop_index(NAME, "outbox_message")


def downgrade() -> None:
    """Make it again."""
    op.create_index(
        NAME, "outbox_message", ["message_id"], mysql_length=PREFIX, mariadb_length=PREFIX
    )
