from pathlib import Path

import pytest

from flask_outbox.outbox.database import Outbox
from flask_outbox.worker.plan import Plan
from worker_stage import Eyes, Told


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(file):
    outbox = Outbox(f"sqlite:///{file}", lease=2.0, busy=2.0)
    outbox.open()
    yield outbox
    outbox.close()


@pytest.fixture
def eyes(file) -> Eyes:
    return Eyes(file)


@pytest.fixture
def transport() -> Told:
    return Told()


@pytest.fixture
def plan(outbox, transport) -> Plan:
    return Plan(outbox=outbox, transports={"default": transport}, connections=2, grace=5.0)
