"""The tables, and the version of the schema that this code was written for.

Three columns say where a message stands, and each is NULL in every other state, so that an index
on it holds only the rows it is for: ``due_at`` while queued, ``fence`` and ``lease_until`` while
sending. All times are UNIX seconds by the database's clock, as double precision floats.

The content has a table of its own: a row of a few hundred bytes is rewritten at every step of its
way, and a 20 MB attachment must not be rewritten with it.
"""

from sqlalchemy import (
    Boolean,
    Column,
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
    text,
)

REVISION = "0001"  # the newest migration; tests hold it equal to Alembic's head
VERSION_TABLE = "outbox_version"

metadata = MetaData()

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
    Column("due_from", Double),  # when due_at was set; NULL where the app named the time itself
    Column("created_at", Double, nullable=False),
    Column("first_due", Double, nullable=False),  # patience is counted from here
    Column("expires_at", Double),
    Column("started_at", Double),  # the start mark of the attempt under way
    Column("left_at", Double),  # the same for a row claimed alone: about to leave, after signing
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
    Column("extra", Text, nullable=False),  # JSON: what no query asks for
    Column("key", String(255)),
    Column("fingerprint", String(128), nullable=False),
    Column("reason", Text, nullable=False),  # why it stands where it stands, for a person
    Index("ix_outbox_message_message_id", "message_id"),
    sqlite_with_rowid=False,
)
Index(
    "ix_outbox_message_claim",
    message.c.transport,
    message.c.priority,
    message.c.due_at,
    message.c.id,
    sqlite_where=text("due_at IS NOT NULL"),
)
Index(
    "ix_outbox_message_open",  # also finds what a clock that was set back would hold up
    message.c.state,
    message.c.due_from,
    sqlite_where=text("state <> 'accepted'"),
)
Index(
    "ix_outbox_message_expires",
    message.c.expires_at,
    sqlite_where=text("expires_at IS NOT NULL AND due_at IS NOT NULL"),
)
Index(
    "uq_outbox_message_key",
    message.c.key,
    unique=True,
    sqlite_where=text("key IS NOT NULL"),
)

content = Table(
    "outbox_content",
    metadata,
    Column(
        "message",
        String(32),
        ForeignKey("outbox_message.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("content", LargeBinary, nullable=False),  # the sealed MIME, as it goes out
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
    Column("state", String(16), nullable=False),
    Column("due_at", Double),  # kept while sending: a claim that is given back falls due again
    Column("attempts", Integer, nullable=False),  # those that were charged
    Column("unclear", Integer, nullable=False),
    Column("reply", Text, nullable=False),  # the latest
    Column("reference", String(255), nullable=False),
    sqlite_with_rowid=False,
)

event = Table(
    "outbox_event",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("message", String(32), nullable=False, index=True),
    Column("recipient", String(320)),  # NULL: all of them
    Column("kind", String(16), nullable=False),
    Column("at", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("text", Text, nullable=False),
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
    sqlite_with_rowid=False,
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
    sqlite_with_rowid=False,
)

schema_version = Table(
    VERSION_TABLE,
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),  # as Alembic makes it
)
