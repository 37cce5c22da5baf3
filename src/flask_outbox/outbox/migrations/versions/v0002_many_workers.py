"""What many workers need to know of one another, and of what is stored.

Expands only: what the revision before wrote, and what its code writes yet, stays right.
"""

import sqlalchemy as sa
from alembic import op

from flask_outbox.outbox.migrations.steps import add_column

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = (
    ("outbox_content", lambda: sa.Column("cipher", sa.String(16))),
    (
        "outbox_message",
        lambda: sa.Column("format", sa.Integer, nullable=False, server_default="1"),
    ),
    ("outbox_worker", lambda: sa.Column("schema", sa.String(32))),
    ("outbox_worker", lambda: sa.Column("settings", sa.String(64))),
    ("outbox_worker", lambda: sa.Column("secret", sa.String(64))),
    ("outbox_worker", lambda: sa.Column("lost_at", sa.Double)),
)


def upgrade() -> None:
    """Add columns that may be left out."""
    for table, column in COLUMNS:
        add_column(table, column())


def downgrade() -> None:
    """Take them away."""
    for table, column in reversed(COLUMNS):
        op.drop_column(table, column().name)
