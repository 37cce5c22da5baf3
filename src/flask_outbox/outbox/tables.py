"""The tables, and the version of the schema that this code was written for.

Columns that say where a message stands are NULL in every other state, so that an index on one
holds only the rows it is for: ``due_at`` while queued, ``fence``, ``claimed_at`` and
``lease_until`` while sending, ``ended_at`` afterwards. No index is on what a start or a renewed
lease changes. All times are UNIX seconds by the database's clock, as double precision floats.

The content has a table of its own: a row of a few hundred bytes is rewritten at every step of its
way, and a 20 MB attachment must not be rewritten with it.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects import mysql

REVISION = "0005"  # the newest migration; tests hold it equal to Alembic's head
FORMAT = 1  # of what a message's row holds; a row of a newer one is left to newer workers
VERSION_TABLE = "outbox_version"

MYSQL = ("mysql", "mariadb")

metadata = MetaData()


class Exact(TypeDecorator[str]):
    """Text that is equal to nothing else; MySQL's own text ignores blanks at its end."""

    impl = String(255)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Keep octets on MySQL and MariaDB."""
        octets: Any = mysql.VARBINARY(1020)
        return dialect.type_descriptor(octets if _is_mysql(dialect) else String(255))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Write it down."""
        return value.encode() if value is not None and _is_mysql(dialect) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Read it back."""
        return bytes(value).decode() if value is not None and _is_mysql(dialect) else value


def _is_mysql(dialect: Dialect) -> bool:
    return dialect.name in MYSQL


_LONG = Text().with_variant(mysql.MEDIUMTEXT(), *MYSQL)
_CONTENT = LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
# Byte by byte, since MySQL's defaults take "A" for "a".
_TABLE: dict[str, Any] = {
    f"{name}_{word}": value
    for name in MYSQL
    for word, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
_TREE: dict[str, Any] = {**_TABLE, "sqlite_with_rowid": False}


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


message = Table(
    "outbox_message",
    metadata,
    Column("id", String(32), primary_key=True),  # UUIDv7, hex
    Column("message_id", String(998), nullable=False),  # not unique: one message, sent twice
    Column("transport", String(64), nullable=False),
    Column("route", String(64), nullable=False),  # chosen at the claim
    Column("priority", String(8), nullable=False),
    Column("state", String(16), nullable=False),  # the summary of its recipients' states
    Column("due_at", Double),
    # When due_at was counted: at the enqueue where that had a delay, or later. NULL: it is due at
    # once, or at the time that the app named.
    Column("due_from", Double),
    Column("slot_at", Double),  # its turn, where it had or has one: a slot, a route, a retry
    Column("created_at", Double, nullable=False),
    Column("first_due", Double, nullable=False),  # patience is counted from here
    Column("expires_at", Double),
    Column("started_at", Double),  # the start mark of the attempt under way
    Column("left_at", Double),  # the same for a row claimed alone: about to leave, after signing
    Column("claimed_at", Double),  # whoever was due by then is in the attempt under way
    Column("leased_at", Double),
    Column("lease_until", Double),
    Column("ended_at", Double),  # NULL while it is queued or under way
    Column("fence", String(32)),  # one token for each claim
    Column("worker", String(128), nullable=False),  # who had it last
    Column("attempts", Integer, nullable=False),  # counted at the start
    Column("crashes", Integer, nullable=False),  # starts that ended with the worker, before a byte
    Column("alone", Boolean(create_constraint=False), nullable=False),
    Column("unclear", Boolean(create_constraint=False), nullable=False),  # may have left before
    Column("sender", String(320), nullable=False),
    Column("size", Integer, nullable=False),  # octets of its content
    Column("extra", _LONG, nullable=False),  # JSON: what no query asks for
    Column("key", Exact),
    Column("fingerprint", String(128), nullable=False),
    Column("reason", Text, nullable=False),  # why it stands where it stands, for a person
    Column("format", Integer, nullable=False, server_default="1"),  # see FORMAT
    **_TREE,
)
Index(
    "ix_outbox_message_claim",
    message.c.transport,
    message.c.priority,
    message.c.due_at,
    message.c.id,
    **_where("due_at IS NOT NULL"),
)
Index(
    "ix_outbox_message_again",  # finds what a clock that was set back would hold up
    message.c.due_from,
    **_where("due_from IS NOT NULL"),
)
Index(
    "ix_outbox_message_leased",
    message.c.fence,
    **_where("fence IS NOT NULL"),
)
Index(
    "ix_outbox_message_ended",  # what a person has to look at
    message.c.state,
    message.c.ended_at,
    **_where("ended_at IS NOT NULL AND state <> 'accepted'"),
)
Index(
    "ix_outbox_message_expires",
    message.c.state,
    message.c.expires_at,
    **_where("expires_at IS NOT NULL AND due_at IS NOT NULL"),
)
Index(
    "uq_outbox_message_key",
    message.c.key,
    unique=True,
    **_where("key IS NOT NULL"),
)

LEASED = message.c.fence > text("''")  # a range: for IS NOT NULL a planner may read all rows

content = Table(
    "outbox_content",
    metadata,
    Column(
        "message",
        String(32),
        ForeignKey("outbox_message.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("content", _CONTENT, nullable=False),  # the sealed MIME, as it goes out
    Column("cipher", String(16)),  # NULL: it is plain
    **_TABLE,
)

recipient = Table(
    "outbox_recipient",
    metadata,
    Column(
        "message",
        String(32),
        ForeignKey("outbox_message.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True, autoincrement=False),  # in the envelope
    Column("address", String(320), nullable=False),
    # Queued all through an attempt: who is in it is told by claimed_at, so a claim writes one row.
    Column("state", String(16), nullable=False),
    Column("due_at", Double),
    Column("attempts", Integer, nullable=False),  # those that were charged
    Column("unclear", Integer, nullable=False),
    Column("reply", Text, nullable=False),  # the latest
    Column("reference", String(255), nullable=False),
    **_TREE,
)

event = Table(
    "outbox_event",
    metadata,
    Column("number", _NUMBER, primary_key=True),
    Column("message", String(32), nullable=False),
    Column("recipient", String(320)),  # NULL: all of them
    Column("kind", String(16), nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("began_at", Double),  # when the attempt began whose outcome it tells
    Index("ix_outbox_event_message", "message"),  # by name, whatever an app's convention is
    **_TABLE,
)

route = Table(
    "outbox_route",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("paused_at", Double),
    Column("paused_until", Double),
    Column("failures", Integer, nullable=False),  # pauses since it last worked
    Column("unclear", Integer, nullable=False),  # unclear outcomes in a row
    Column("reason", Text, nullable=False),
    **_TREE,
)

rate = Table(
    "outbox_rate",
    metadata,
    Column("name", String(400), primary_key=True),  # "to gmail.com by default": rates.py
    Column("next_at", Double, nullable=False),
    Column("next_slot", Double),  # the latest of each queue
    Column("again_slot", Double),
    Column("normal_slot", Double),
    Column("bulk_slot", Double),
    Column("rate", Double),  # what was set when the slots were handed out
    Column("slow", Double),  # what it was slowed to, and when
    Column("slowed_at", Double, nullable=False),
    Column("closed_until", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("written_at", Double, nullable=False),
    **_TREE,
)

worker = Table(
    "outbox_worker",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(32), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("beat_at", Double, nullable=False),
    Column("schema", String(32)),  # the revision that its code was written for
    Column("settings", String(64)),  # a keyed hash: tells others apart, says nothing
    Column("secret", String(64)),  # a keyed check of the app's SECRET_KEY
    Column("lost_at", Double),  # when it was found to beat no more; beat_at: it was a drain's
    **_TREE,
)

schema_version = Table(
    VERSION_TABLE,
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),  # as Alembic makes it
    **_TABLE,
)
