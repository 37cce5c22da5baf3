"""The outbox's tables among the migrations of an app: Flask-Migrate, as it really is."""

import os
import re
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from flask.cli import main
from sqlalchemy import NullPool, create_engine

from flask_outbox import ConfigurationError, migrations
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.schema import missing
from flask_outbox.outbox.tables import REVISION
from forked import in_child
from outbox_mail import put
from schema_of import schema_of
from shop import a_shop, close, note, open_shop, url_of

TESTS = Path(__file__).parents[1]
PROGRAM = """
import os
from pathlib import Path
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import MetaData
import flask_outbox

app = Flask("shop", instance_path=os.environ["INSTANCE"])
app.config.update(
    SQLALCHEMY_DATABASE_URI=os.environ["URI"], MAIL_DEFAULT_SENDER="shop@example.com"
)
naming = {"ix": "idx_%(table_name)s_%(column_0_name)s", "pk": "pk_%(table_name)s"}
db = SQLAlchemy(app, metadata=MetaData(naming_convention=naming))

class Order(db.Model):
    __tablename__ = "shop_order"
    id = db.Column(db.Integer, primary_key=True)
    name = db.Column(db.String(100), index=True)

"""
JOINED = """
flask_outbox.Mail(app, db=db)
Migrate(app, db, compare_server_default=True)
"""
BESIDE = """
app.config["MAIL_OUTBOX_URL"] = os.environ["OUTBOX"]
flask_outbox.Mail(app)
Migrate(app, db)
"""
JOINED_LATER = JOINED.replace("(app, db,", "(app, db, include_object=flask_outbox.include_object,")
LEFT_ALONE = BESIDE.replace("(app, db)", "(app, db, include_object=flask_outbox.include_object)")


class App:
    """An app in a folder, and its ``flask db``."""

    def __init__(self, folder, place, kind):
        self.folder, self.place = folder, place
        (folder / "made.py").write_text(PROGRAM + kind)

    def flask(self, *arguments):
        """Run it, in a child that has most of what it imports; give what it says."""
        said = self.folder / "said"

        def run():
            os.chdir(self.folder)
            sys.path.insert(0, str(self.folder))
            sys.argv = ["flask", "--app", "made", *arguments]
            os.environ["URI"] = url_of(self.place)
            os.environ["OUTBOX"] = self.place
            os.environ["INSTANCE"] = str(self.folder / "instance")
            warnings.simplefilter("error")
            # Flask-Migrate's own env.py asks in the way of Flask-SQLAlchemy 2 first.
            warnings.filterwarnings("ignore", "'get_engine' is deprecated")
            with (
                said.open("w") as out,
                redirect_stdout(out),
                redirect_stderr(out),
                pytest.raises(SystemExit) as ended,
            ):
                main()
            assert not ended.value.code, said.read_text()

        in_child(run, 100.0)
        return said.read_text()

    def revisions(self):
        """The app's own migrations, in order."""
        found = (self.folder / "migrations" / "versions").glob("*.py")
        return sorted(found, key=lambda each: each.stat().st_mtime_ns)

    def revise(self, upgrade, downgrade):
        """Have a migration made, and write by hand what it does."""
        self.flask("db", "revision", "-m", "ours")
        file = self.revisions()[-1]
        text = file.read_text().replace(
            "import sqlalchemy", "from flask_outbox import migrations\nimport sqlalchemy"
        )
        head, _, _ = text.partition("def upgrade")
        file.write_text(
            f"{head}def upgrade():\n    {upgrade}\n\n\ndef downgrade():\n    {downgrade}\n"
        )


@pytest.fixture
def an_app(database, tmp_path):
    def make(kind):
        app = App(tmp_path, database, kind)
        app.flask("db", "init")
        return app

    return make


@pytest.fixture
def fresh(request, database, tmp_path):
    """Another database, with what ``create_all`` makes."""
    kind = database.partition(":")[0]
    if kind == "sqlite":
        place = f"sqlite:///{tmp_path / 'fresh.sqlite3'}"
    else:
        place = request.getfixturevalue({"mysql": "mariadb"}.get(kind, kind)).new()
    with open_shop(place, tmp_path / "fresh", MAIL_WORKER="process") as shop:
        return schema_at(shop.place)


def schema_at(place):
    """What the database knows of our tables, among the app's."""
    engine = create_engine(url_of(place), poolclass=NullPool)
    with engine.connect() as connection:
        found = schema_of(connection, None)
    return {name: what for name, what in found.items() if name.startswith("outbox_")}


def test_flask_migrate_makes_our_tables_and_finds_nothing_more_to_do(an_app, fresh, tmp_path):
    app = an_app(JOINED)
    app.flask("db", "migrate")
    app.flask("db", "upgrade")
    assert schema_at(app.place) == fresh
    app.flask("db", "check")  # fails where there is more to do
    app.flask("db", "migrate")
    assert len(app.revisions()) == 1
    shop = a_shop(app.place, tmp_path / "instance", MAIL_WORKER="process")
    with shop.app.app_context():
        row = shop.mail.send_later(note())
        shop.db.session.commit()
    assert shop.mails() == [row]
    close(shop)


def test_ours_called_by_the_apps_are_the_same_in_both_directions(an_app, fresh):
    app = an_app(JOINED)
    app.revise(
        'op.create_table("shop_order", sa.Column("id", sa.Integer, primary_key=True),'
        ' sa.Column("name", sa.String(100), index=True))',
        'op.drop_table("shop_order")',
    )
    app.revise('migrations.upgrade("0001")', 'migrations.downgrade("0001")')
    app.revise(
        'migrations.upgrade("0005", after="0001")', 'migrations.downgrade("0005", after="0001")'
    )
    app.flask("db", "upgrade")
    assert schema_at(app.place) == fresh
    app.flask("db", "check")  # fails where there is more to do
    app.flask("db", "downgrade")
    assert schema_at(app.place) != fresh
    app.flask("db", "downgrade")
    assert schema_at(app.place) == {}
    app.flask("db", "upgrade")
    assert schema_at(app.place) == fresh


def test_ours_are_in_the_script_for_who_runs_the_sql_by_hand(an_app):
    app = an_app(JOINED)
    app.revise('migrations.upgrade("0005")', 'migrations.downgrade("0005")')
    script = app.flask("db", "upgrade", "--sql")
    assert "CREATE TABLE outbox_message" in script
    assert "ALTER TABLE outbox_message ADD" in script


def test_an_outbox_beside_the_apps_tables_is_not_dropped_by_its_migrations(an_app):
    app = an_app(LEFT_ALONE)
    Outbox(app.place).upgrade()
    app.flask("db", "migrate")
    (made,) = app.revisions()
    assert "shop_order" in made.read_text()
    assert "outbox_" not in made.read_text()
    app.flask("db", "upgrade")
    app.flask("db", "check")  # fails where there is more to do


def test_without_include_object_it_would_be_but_on_postgresql(an_app):
    app = an_app(BESIDE)
    Outbox(app.place).upgrade()
    app.flask("db", "migrate")
    (made,) = app.revisions()
    dropped = re.findall(r"drop_table\('(outbox_\w+)'\)", made.read_text())
    assert bool(dropped) is not app.place.startswith("postgresql")


def test_an_outbox_that_was_beside_them_becomes_the_apps_with_its_mail(an_app, database, tmp_path):
    outbox = Outbox(database)
    outbox.upgrade()
    row = put(outbox)
    outbox.close()
    app = an_app(JOINED_LATER)
    app.flask("db", "migrate")
    (made,) = app.revisions()
    assert "drop_" not in made.read_text().partition("def downgrade")[0]
    app.flask("db", "upgrade")
    shop = a_shop(app.place, tmp_path / "instance", MAIL_WORKER="process")
    with shop.app.app_context():
        ours = shop.mail.status(row)
        another = shop.mail.send_later(note())
        shop.db.session.commit()
    in_a_schema_of_its_own = database.startswith("postgresql")
    assert (ours is None) is in_a_schema_of_its_own
    assert shop.mails() == ([another] if in_a_schema_of_its_own else [row, another])
    close(shop)


def test_without_flask_migrate_a_few_lines_do_it(database, fresh):
    engine = create_engine(url_of(database), poolclass=NullPool)
    with (
        engine.begin() as connection,
        Operations.context(MigrationContext.configure(connection)),
    ):
        migrations.upgrade("0001")
        assert sorted(missing(connection)) == [
            "outbox_content.cipher",
            "outbox_event.began_at",
            "outbox_message.claimed_at",
            "outbox_message.format",
            "outbox_message.slot_at",
            "outbox_rate",
            "outbox_worker.lost_at",
            "outbox_worker.schema",
            "outbox_worker.secret",
            "outbox_worker.settings",
        ]
        migrations.upgrade("0005", after="0001")
        assert missing(connection) == []
    assert schema_at(database) == fresh


@pytest.mark.parametrize(
    "asked", [("0009", None), ("", None), ("0001", "0001"), ("0001", "0002"), ("0002", "0000")]
)
def test_what_is_no_revision_is_told_with_those_that_are(asked):
    to, after = asked
    for way in (migrations.upgrade, migrations.downgrade):
        with pytest.raises(ConfigurationError, match="take one of 0001, 0002, 0003, 0004, 0005"):
            way(to, after=after)


def test_the_page_names_the_newest_revision():
    page = TESTS.parent / "docs" / "how-to" / "own-transaction.md"
    assert f'migrations.upgrade("{REVISION}")' in page.read_text(encoding="utf-8")
