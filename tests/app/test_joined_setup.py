"""What Mail(app, db=db) says at start-up, before anything could be lost."""

import logging

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData, create_engine, text

from flask_outbox import ConfigurationError, Mail, OutboxUnavailable
from shop import note, open_shop, url_of


def an_app(tmp_path, **config):
    app = Flask("shop", instance_path=str(tmp_path / "instance"))
    app.config.update(MAIL_DEFAULT_SENDER="shop@example.com", MAIL_WORKER="process", **config)
    return app


@pytest.fixture
def file(tmp_path):
    return f"sqlite:///{tmp_path / 'shop.sqlite3'}"


@pytest.fixture
def other(tmp_path):
    return f"sqlite:///{tmp_path / 'other.sqlite3'}"


def test_a_db_that_is_no_flask_sqlalchemy_is_told_what_to_do_instead(file):
    engine = create_engine(file)
    with pytest.raises(ConfigurationError, match="session= to send_later"):
        Mail(db=engine)


def test_the_order_of_the_two_extensions_is_told(tmp_path, file):
    app, db = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file), SQLAlchemy()
    with pytest.raises(ConfigurationError, match=r"db\.init_app.* before mail\.init_app"):
        Mail(app, db=db)


def test_another_db_than_the_apps_is_told(tmp_path, file):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file)
    SQLAlchemy(app)
    with pytest.raises(ConfigurationError, match=r"db\.init_app"):
        Mail(app, db=SQLAlchemy())


def test_two_places_for_one_outbox_are_refused(tmp_path, file, other):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file, MAIL_OUTBOX_URL=other)
    with pytest.raises(ConfigurationError, match="MAIL_OUTBOX_URL"):
        Mail(app, db=SQLAlchemy(app))


def test_a_database_that_commits_each_statement_is_refused_and_left_as_it_is(tmp_path, file):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file)
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"isolation_level": "AUTOCOMMIT"}
    db = SQLAlchemy(app)
    with pytest.raises(ConfigurationError, match=r"AUTOCOMMIT.*SQLALCHEMY_ENGINE_OPTIONS"):
        Mail(app, db=db)
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(text("CREATE TABLE a (n INTEGER)"))
        connection.rollback()  # of nothing
        assert connection.execute(text("SELECT * FROM a")).all() == []


def test_so_is_a_bind(tmp_path, file, other):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file)
    app.config["SQLALCHEMY_BINDS"] = {"m": {"url": other, "isolation_level": "AUTOCOMMIT"}}
    with pytest.raises(ConfigurationError, match=r'AUTOCOMMIT.*SQLALCHEMY_BINDS\["m"\]'):
        Mail(app, db=SQLAlchemy(app), bind="m")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_mail_in_memory_is_refused_at_start_up_and_is_fine_in_tests(tmp_path, uri):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=uri)
    with pytest.raises(ConfigurationError, match=r"in memory.*SQLALCHEMY_DATABASE_URI"):
        Mail(app, db=SQLAlchemy(app))
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=uri, TESTING=True)
    db = SQLAlchemy(app)
    mail = Mail(app, db=db)
    with app.app_context():
        row = mail.send_later(note())
        db.session.commit()
        assert mail.status(row) is not None
        assert mail.status("0" * 32) is None
        assert not mail.cancel("0" * 32)


def test_a_bind_that_is_not_there_is_named(tmp_path, file):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file)
    with pytest.raises(ConfigurationError, match=r'"post"\) must be a key of SQLALCHEMY_BINDS'):
        Mail(app, db=SQLAlchemy(app), bind="post")


def test_no_default_bind_and_none_named_is_told(tmp_path, file):
    app = an_app(tmp_path, SQLALCHEMY_BINDS={"post": file})
    with pytest.raises(ConfigurationError, match=r"SQLALCHEMY_DATABASE_URI.*bind="):
        Mail(app, db=SQLAlchemy(app))


def test_a_bind_without_a_db_is_told():
    with pytest.raises(ConfigurationError, match="give db="):
        Mail(bind="post")


def test_a_second_bind_that_is_asked_for_works_and_is_warned_of(tmp_path, file, other, caplog):
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=file, SQLALCHEMY_BINDS={"post": other})
    naming = MetaData(naming_convention={"pk": "pk_%(table_name)s"})
    db = SQLAlchemy(metadata=naming)
    mail = Mail(db=db, bind="post")  # before db knows of its binds
    db.init_app(app)
    mail.init_app(app)
    assert 'bind "post"' in caplog.text
    assert db.metadatas["post"].naming_convention == naming.naming_convention
    with app.app_context():
        db.create_all()
        assert "outbox_message" not in db.metadata.tables
        for ends, count in (("rollback", 0), ("commit", 1)):
            mail.send_later(note())
            getattr(db.session, ends)()
            with db.engines["post"].connect() as connection:
                found = connection.execute(text("SELECT count(*) FROM outbox_message"))
                assert found.scalar_one() == count
        close_engines(db)
    app.extensions["outbox"].close()


def close_engines(db):
    for engine in db.engines.values():
        engine.dispose()


def test_one_bind_is_no_reason_for_a_warning(tmp_path, file, caplog):
    with open_shop(file, tmp_path / "instance"):
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_tables_that_are_not_there_are_named_with_the_command(database, tmp_path):
    with open_shop(database, tmp_path / "instance", MAIL_WORKER="process") as shop:
        for table in ("outbox_event", "outbox_recipient"):
            shop.db.metadata.tables[table].drop(shop.db.engine)
        with pytest.raises(OutboxUnavailable, match=r"outbox_event.*flask db upgrade"):
            shop.mail.send_later(note())
        shop.db.session.rollback()
        result = shop.app.test_cli_runner().invoke(args=["outbox", "upgrade"])
        assert result.exit_code != 0
        assert "flask db upgrade" in result.output


def test_a_column_that_is_not_there_is_named_with_the_command(database, tmp_path):
    with open_shop(database, tmp_path / "instance", MAIL_WORKER="process") as shop:
        with shop.db.engine.begin() as connection:
            connection.execute(text("ALTER TABLE outbox_message DROP COLUMN format"))
        with pytest.raises(OutboxUnavailable, match=r"outbox_message\.format.*flask db upgrade"):
            shop.mail.send_later(note())
        shop.db.session.rollback()
        with pytest.raises(OutboxUnavailable, match=r"outbox_message\.format"):
            shop.mail.status("0" * 32)


def test_upgrade_says_that_nothing_is_to_be_done_where_all_is_there(database, tmp_path):
    with open_shop(database, tmp_path / "instance", MAIL_WORKER="process") as shop:
        result = shop.app.test_cli_runner().invoke(args=["outbox", "upgrade"])
        assert result.exit_code == 0, result.output
        assert "outbox_version" not in shop.db.inspect(shop.db.engine).get_table_names()


def test_on_postgresql_an_apps_own_schema_has_our_tables(postgresql, tmp_path):
    place = postgresql.new()
    app = an_app(tmp_path, SQLALCHEMY_DATABASE_URI=url_of(place))
    db = SQLAlchemy(app, metadata=MetaData(schema="shop"))
    mail = Mail(app, db=db)
    with app.app_context():
        with db.engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA shop"))
        db.create_all()
        row = mail.send_later(note(), key="order-7")
        assert mail.send_later(note(), key="order-7") == row
        db.session.commit()
        assert mail.status(row) is not None
        assert db.inspect(db.engine).get_table_names() == []
        assert mail.cancel(row)
        db.session.commit()
        db.session.remove()
        close_engines(db)
    app.extensions["outbox"].close()
