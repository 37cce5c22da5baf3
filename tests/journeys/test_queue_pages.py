"""What the docs say of task queues, done: their first block is the app, their commands run it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from brokers import broker
from engine_stage import QUIET
from hostile import Hostile
from worker_stage import Eyes, wait_for

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOUND = 60.0  # seconds: each program begins with importing an app
ORDER = "import shop, sys; print((shop.app if 'app' in vars(shop) else shop.flask_app)"
ORDER += ".test_client().post('/orders').status_code)"


@pytest.fixture
def shop(tmp_path):
    """Make ``shop.py`` of a page, and say how to run things beside it."""

    def make(page: str, more: int = 1, **environment: str):
        blocks = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
        (tmp_path / "shop.py").write_text("\n".join(blocks[:more]), encoding="utf-8")
        (tmp_path / "instance").mkdir()
        paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
        return {
            "cwd": tmp_path,
            "env": {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        }

    return make


def python(*arguments: str, **where) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
        **where,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def celery_worker(**where):
    program = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "shop:celery_app", "worker", *QUIET], **where
    )
    try:
        yield
        program.terminate()
        assert program.wait(BOUND) == 0
    finally:
        program.kill()
        program.wait()


def test_the_set_up_for_celery_sends(shop, tmp_path):
    with Hostile() as relay, broker("redis", own=True) as url:
        where = shop("celery.md", FLASK_MAIL_PORT=str(relay.port), FLASK_CELERY__broker_url=url)
        with celery_worker(**where):
            assert python("-c", ORDER, **where) == "201\n"
            wait_for(lambda: relay.message_ids, BOUND)
            eyes = Eyes(tmp_path / "instance" / "outbox.sqlite3")
            wait_for(lambda: eyes.count("state = 'accepted'") == 1, BOUND)
        assert len(relay.message_ids) == 1


def test_the_recipe_of_every_tutorial_sends(shop):
    with Hostile() as relay, broker("redis", own=True) as url:
        blocks = {"FLASK_MAIL_PORT": str(relay.port), "FLASK_CELERY__broker_url": url}
        where = shop("celery.md", 3, **blocks)
        call = "import shop; shop.send_email_task.delay('Hello', 'ada@example.org', 'Hello')"
        with celery_worker(**where):
            python("-c", call, **where)
            wait_for(lambda: relay.message_ids, BOUND)
        assert len(relay.message_ids) == 1


def test_rq_attached_in_under_twenty_lines_sends(shop, tmp_path):
    with Hostile() as relay, broker("redis", own=True) as url:
        where = shop("engines.md", FLASK_MAIL_PORT=str(relay.port), REDIS_URL=url)
        assert python("-c", ORDER, **where) == "201\n"
        assert relay.message_ids == []
        python("-m", "rq.cli", "worker", "--burst", "--url", url, "mail", **where)
        assert len(relay.message_ids) == 1
        assert Eyes(tmp_path / "instance" / "outbox.sqlite3").count("state = 'accepted'") == 1
    text = (tmp_path / "shop.py").read_text()
    attaching = text[text.index("class RqEngine") : text.index("app = Flask")]
    assert len([line for line in attaching.splitlines() if line]) + 2 < 20
