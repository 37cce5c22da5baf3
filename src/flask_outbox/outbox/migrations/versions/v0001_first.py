"""The first tables."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from flask_outbox.outbox.migrations.steps import create_index, create_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")
KEY = sa.String(255).with_variant(mysql.VARBINARY(1020), *MYSQL)
LONG = sa.Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)
CONTENT = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE: dict[str, Any] = {
    f"{name}_{word}": value
    for name in MYSQL
    for word, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
PREFIX: dict[str, Any] = {f"{name}_length": {"message_id": 255} for name in MYSQL}
TREE: dict[str, Any] = {**TABLE, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Make them; a frozen copy of ``tables.py`` as it was then."""
    _messages()
    _parts()
    _others()


def _messages() -> None:
    create_table(
        "outbox_message",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("message_id", sa.String(998), nullable=False),
        sa.Column("transport", sa.String(64), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("priority", sa.String(8), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("due_from", sa.Double),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("first_due", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("started_at", sa.Double),
        sa.Column("left_at", sa.Double),
        sa.Column("leased_at", sa.Double),
        sa.Column("lease_until", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("fence", sa.String(32)),
        sa.Column("worker", sa.String(128), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("alone", sa.Boolean, nullable=False),
        sa.Column("unclear", sa.Boolean, nullable=False),
        sa.Column("sender", sa.String(320), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("extra", LONG, nullable=False),
        sa.Column("key", KEY),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        **TREE,
    )
    for name, columns, unique, where in (
        ("ix_outbox_message_message_id", ["message_id"], False, None),
        (
            "ix_outbox_message_claim",
            ["transport", "priority", "due_at", "id"],
            False,
            "due_at IS NOT NULL",
        ),
        ("ix_outbox_message_open", ["state", "due_from"], False, "state <> 'accepted'"),
        (
            "ix_outbox_message_expires",
            ["state", "expires_at"],
            False,
            "expires_at IS NOT NULL AND due_at IS NOT NULL",
        ),
        ("uq_outbox_message_key", ["key"], True, "key IS NOT NULL"),
    ):
        condition = sa.text(where) if where else None
        create_index(
            name,
            "outbox_message",
            columns,
            unique=unique,
            sqlite_where=condition,
            postgresql_where=condition,
            **(PREFIX if columns == ["message_id"] else {}),
        )


def _parts() -> None:
    create_table(
        "outbox_content",
        sa.Column("message", sa.String(32), primary_key=True),
        sa.Column("content", CONTENT, nullable=False),
        sa.ForeignKeyConstraint(["message"], ["outbox_message.id"], ondelete="CASCADE"),
        **TABLE,
    )
    create_table(
        "outbox_recipient",
        sa.Column("message", sa.String(32), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("address", sa.String(320), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due_at", sa.Double),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("unclear", sa.Integer, nullable=False),
        sa.Column("reply", sa.Text, nullable=False),
        sa.Column("reference", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["message"], ["outbox_message.id"], ondelete="CASCADE"),
        **TREE,
    )
    create_table(
        "outbox_event",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("message", sa.String(32), nullable=False),
        sa.Column("recipient", sa.String(320)),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        **TABLE,
    )
    create_index("ix_outbox_event_message", "outbox_event", ["message"])


def _others() -> None:
    create_table(
        "outbox_route",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("paused_at", sa.Double),
        sa.Column("paused_until", sa.Double),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("unclear", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        **TREE,
    )
    create_table(
        "outbox_worker",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("beat_at", sa.Double, nullable=False),
        **TREE,
    )


def downgrade() -> None:
    """Drop them all."""
    for name in ("worker", "route", "event", "recipient", "content", "message"):
        op.drop_table(f"outbox_{name}")
