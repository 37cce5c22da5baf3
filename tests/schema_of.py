"""What a database knows of its tables, for comparing two."""

from sqlalchemy import Connection, Inspector, inspect

from flask_outbox.outbox.database import Outbox


def schema(outbox: Outbox) -> dict[str, object]:
    """Everything the database knows of its tables and indexes, but for the order of columns."""
    with outbox.begin() as connection:
        return schema_of(connection, outbox.database.schema)


def schema_of(connection: Connection, inside: str | None) -> dict[str, object]:
    inspector = inspect(connection)
    return {
        name: {
            "columns": {
                each["name"]: (str(each["type"]), each["nullable"], each["default"])
                for each in inspector.get_columns(name, schema=inside)
            },
            "key": inspector.get_pk_constraint(name, schema=inside)["constrained_columns"],
            "indexes": {
                each["name"]: (each["column_names"], each["unique"], said(each))
                for each in inspector.get_indexes(name, schema=inside)
            },
            "foreign": [
                (each["constrained_columns"], each["referred_table"], each["options"])
                for each in inspector.get_foreign_keys(name, schema=inside)
            ],
            "options": options(inspector, name, inside),
        }
        for name in inspector.get_table_names(schema=inside)
    }


def options(inspector: Inspector, name: str, inside: str | None):
    try:
        return inspector.get_table_options(name, schema=inside)
    except NotImplementedError:  # SQLAlchemy 2.0, of databases that have none
        return {}


def said(index: object):
    return {name: str(value) for name, value in index.get("dialect_options", {}).items()}
