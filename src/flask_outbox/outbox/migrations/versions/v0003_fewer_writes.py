"""What a mail's way costs in writes: an attempt is one line of history, a claim one row.

Expands only: the index that goes away is one that no answer hangs on.
"""

import sqlalchemy as sa
from alembic import op

from flask_outbox.outbox.migrations.steps import add_column, create_index, drop_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_outbox_message_again", ["due_from"], "due_from IS NOT NULL"),
    ("ix_outbox_message_leased", ["fence"], "fence IS NOT NULL"),
    (
        "ix_outbox_message_ended",
        ["state", "ended_at"],
        "ended_at IS NOT NULL AND state <> 'accepted'",
    ),
)
OPEN = ("ix_outbox_message_open", ["state", "due_from"], "state <> 'accepted'")


def upgrade() -> None:
    """Add columns that may be left out, and other indexes."""
    add_column("outbox_message", sa.Column("claimed_at", sa.Double))
    add_column("outbox_event", sa.Column("began_at", sa.Double))
    for each in INDEXES:
        _index(*each)
    drop_index(OPEN[0], "outbox_message")


def downgrade() -> None:
    """Take them away."""
    _index(*OPEN)
    for name, _, _ in reversed(INDEXES):
        op.drop_index(name, "outbox_message")
    op.drop_column("outbox_event", "began_at")
    op.drop_column("outbox_message", "claimed_at")


def _index(name: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    create_index(
        name, "outbox_message", columns, sqlite_where=condition, postgresql_where=condition
    )
