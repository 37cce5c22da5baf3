"""A shop whose orders are confirmed by mail, in one transaction: Flask-SQLAlchemy and ``db=``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_outbox import Mail, Message

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


def url_of(place: str) -> str:
    """Give a database's URL as an app gives it to SQLAlchemy, with its driver."""
    url = make_url(place)
    driver = DRIVERS.get(url.drivername, url.drivername)
    return url.set(drivername=driver).render_as_string(hide_password=False)


def ask(place: str, query: str) -> list[tuple[Any, ...]]:
    """Ask the database as another program would."""
    engine = create_engine(url_of(place), poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def note(**fields: Any) -> Message:
    given = {"subject": "Your order", "recipients": ["ada@example.org"], "body": "Thank you!"}
    return Message(**{**given, **fields})


@dataclass
class Shop:
    """One app and what it is made of."""

    app: Flask
    db: SQLAlchemy
    mail: Mail
    Order: Any
    place: str

    def order(self, name: str = "tea") -> Any:
        """Write an order down in the session."""
        found = self.Order(name=name)
        self.db.session.add(found)
        return found

    def orders(self) -> list[str]:
        """List those that are committed."""
        return [name for (name,) in ask(self.place, "SELECT name FROM shop_order ORDER BY id")]

    def mails(self) -> list[str]:
        """List the ids of the mail that is committed."""
        return [row for (row,) in ask(self.place, "SELECT id FROM outbox_message ORDER BY id")]


def a_shop(
    place: str,
    instance: Path,
    *,
    engine: Any = None,
    listeners: Callable[[Any], None] | None = None,
    **config: Any,
) -> Shop:
    """Make one, with what a factory does and in its order; no table is made.

    ``listeners``: what the app puts on its engine before it knows of mail.
    """

    class Base(DeclarativeBase):
        pass

    db = SQLAlchemy(model_class=Base)

    class Order(Base):
        __tablename__ = "shop_order"

        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(db.String(100))

    app = Flask("shop", instance_path=str(instance))
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url_of(place), MAIL_DEFAULT_SENDER="shop@example.com", **config
    )
    db.init_app(app)
    if listeners is not None:
        with app.app_context():
            listeners(db.engine)
    mail = Mail(app, db=db, engine=engine)
    return Shop(app, db, mail, Order, place)


def close(shop: Shop) -> None:
    """Leave nothing open."""
    if (runtime := shop.app.extensions.get("outbox")) is not None:
        runtime.close()
    with shop.app.app_context():
        shop.db.session.remove()
        for engine in shop.db.engines.values():
            engine.dispose()


@contextmanager
def open_shop(place: str, instance: Path, **given: Any) -> Iterator[Shop]:
    """Make one with its tables, in its app's context."""
    shop = a_shop(place, instance, **given)
    try:
        with shop.app.app_context():
            shop.db.create_all()
            yield shop
    finally:
        close(shop)
