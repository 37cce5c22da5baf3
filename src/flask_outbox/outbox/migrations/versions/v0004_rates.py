"""Rates that all workers share, and the slots that they give.

Expands only: a worker of the revision before keeps to no rate, and takes what is due, slots too.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from flask_outbox.outbox.migrations.steps import add_column, create_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TREE: dict[str, Any] = {
    "sqlite_with_rowid": False,
    **{
        f"{name}_{word}": value
        for name in ("mysql", "mariadb")
        for word, value in (
            ("engine", "InnoDB"),
            ("charset", "utf8mb4"),
            ("collate", "utf8mb4_bin"),
        )
    },
}


def upgrade() -> None:
    """Add a table, and a column that may be left out."""
    create_table(
        "outbox_rate",
        sa.Column("name", sa.String(400), primary_key=True),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("next_slot", sa.Double),
        sa.Column("again_slot", sa.Double),
        sa.Column("normal_slot", sa.Double),
        sa.Column("bulk_slot", sa.Double),
        sa.Column("rate", sa.Double),
        sa.Column("slow", sa.Double),
        sa.Column("slowed_at", sa.Double, nullable=False),
        sa.Column("closed_until", sa.Double, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("written_at", sa.Double, nullable=False),
        **_TREE,
    )
    add_column("outbox_message", sa.Column("slot_at", sa.Double))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("outbox_message", "slot_at")
    op.drop_table("outbox_rate")
