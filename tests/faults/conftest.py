import sys
from pathlib import Path

import pytest

from faults_worker import an_outbox
from worker_stage import Eyes

sys.path.append(str(Path(__file__).parent))  # random_kills.py, a program and a module


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "outbox.sqlite3"


@pytest.fixture
def outbox(file):
    outbox = an_outbox(file)
    outbox.open()
    yield outbox
    outbox.close()


@pytest.fixture
def eyes(file) -> Eyes:
    return Eyes(file)
