"""Who sends what was committed: each worker, by the app's own engine, on each database."""

import subprocess
import sys
from pathlib import Path

import pytest

from flask_outbox import State, message_sent
from forked import in_child
from shop import note, open_shop
from worker_stage import BOUND, wait_for

TESTS = Path(__file__).parents[1]


@pytest.fixture
def open_one(database, tmp_path, server):
    return lambda **config: open_shop(
        database, tmp_path / "instance", **{"MAIL_PORT": server.port, "MAIL_GRACE": 5, **config}
    )


def state(shop, row):
    return shop.mail.status(row).state


def to(server):
    return [each.recipients for each in server.taken]


def test_the_embedded_worker_sends_what_was_committed_and_nothing_else(open_one, server):
    with open_one() as shop:
        shop.order()
        shop.mail.send_later(note(recipients=["undone@example.org"]))
        shop.db.session.rollback()
        shop.order()
        row = shop.mail.send_later(note())
        shop.db.session.commit()
        wait_for(lambda: state(shop, row) is State.ACCEPTED)
        assert to(server) == [["ada@example.org"]]


def test_the_embedded_worker_is_not_in_the_way_of_the_apps_own_transactions(open_one, server):
    heard = []

    def hear(_app, *, id, **_):  # noqa: A002  the signal's word
        heard.append(id)

    with open_one() as shop, message_sent.connected_to(hear):
        rows = []
        for number in range(30):
            shop.order(f"tea {number}")
            rows.append(shop.mail.send_later(note(recipients=[f"n{number}@example.org"])))
            shop.db.session.commit()
        wait_for(lambda: len(heard) == 30)
        assert len(shop.orders()) == 30
        assert sorted(heard) == sorted(rows)
        assert len(server.taken) == 30


def test_flask_outbox_worker_sends_what_was_committed(open_one, server, tmp_path):
    with open_one(MAIL_WORKER="process") as shop:
        rows = [shop.mail.send_later(note(recipients=[f"n{n}@example.org"])) for n in range(5)]
        shop.db.session.commit()
        shop.mail.send_later(note(recipients=["undone@example.org"]))
        shop.db.session.rollback()
        (tmp_path / "made.py").write_text(
            "from pathlib import Path\n"
            "from shop import a_shop\n"
            f"app = a_shop({shop.place!r}, Path({shop.app.instance_path!r}),"
            f" MAIL_PORT={server.port}, MAIL_WORKER='process', MAIL_GRACE=5).app\n"
        )
        command = [sys.executable, "-m", "flask", "--app", "made", "outbox", "worker"]
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(
                command,
                cwd=tmp_path,
                env={"PYTHONPATH": str(TESTS), "PATH": "/usr/bin:/bin"},
                stdout=log,
                stderr=log,
            )
        try:
            wait_for(lambda: all(state(shop, row) is State.ACCEPTED for row in rows))
            worker.terminate()
            assert worker.wait(BOUND) == 0, (tmp_path / "log").read_text()
        finally:
            worker.kill()
            worker.wait()
        assert sorted(to(server)) == [[f"n{n}@example.org"] for n in range(5)]


def test_flask_outbox_drain_list_show_and_stats_go_by_the_apps_engine(open_one, server):
    with open_one(MAIL_WORKER="process") as shop:
        row = shop.mail.send_later(note())
        shop.db.session.commit()
        run = shop.app.test_cli_runner().invoke
        for arguments, said in (
            (["drain"], "1"),
            (["list", "--state", "accepted"], row),
            (["show", row], "250 ok"),
            (["stats"], "Nothing is open"),
        ):
            result = run(args=["outbox", *arguments])
            assert result.exit_code == 0, result.output
            assert said in result.output
        assert len(server.taken) == 1


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_by_the_apps_engine_ours_read_what_is_committed_and_the_apps_as_it_wants(open_one):
    """In REPEATABLE READ a claim would lock gaps, and see no mail that came since."""
    options = {"isolation_level": "REPEATABLE READ", "pool_size": 1, "max_overflow": 0}
    with open_one(MAIL_WORKER="process", SQLALCHEMY_ENGINE_OPTIONS=options) as shop:
        shop.mail.send_later(note())
        shop.db.session.commit()
        for _ in range(2):
            with shop.app.extensions["outbox"].outbox.begin() as ours:
                assert ours.get_isolation_level() == "READ COMMITTED"
            assert shop.db.session.connection().get_isolation_level() == "REPEATABLE READ"
            shop.db.session.rollback()


WHO = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}


def test_what_the_app_has_open_at_a_fork_is_not_its_childs(open_one, database):
    """As where it makes its tables while it is imported, and its server forks afterwards."""
    with open_one(MAIL_WORKER="process") as shop:
        kind = shop.db.engine.dialect.name

        def used():
            if kind == "sqlite":
                shop.orders()
                opened = [each.resolve() for each in Path("/proc/self/fd").iterdir()]
                return [each for each in opened if each.name == Path(shop.place).name]
            found = shop.db.session.execute(shop.db.text(WHO[kind])).scalar_one()
            shop.db.session.rollback()
            return [found]

        shop.db.session.execute(shop.db.select(shop.Order)).all()
        shop.db.session.rollback()  # it rests in the pool
        ours = used()

        def child():
            assert used() != ours

        assert ours
        in_child(child)
        assert kind == "sqlite" or used() == ours
