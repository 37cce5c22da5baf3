"""The pytest plugin: a fixture ``outbox`` that holds what the code under test sent.

Loaded by every pytest run of a project that has Flask-Outbox installed, so it imports next to
nothing before the fixture is asked for.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flask_outbox.app.recorder import Recorder


@pytest.fixture
def outbox() -> "Generator[Recorder]":
    """Hold back all mail of this test, of every app, and note it down; see ``Recorder``."""
    from flask_outbox.app.recorder import Recorder  # noqa: PLC0415  only for who asks

    with Recorder() as recorder:
        yield recorder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> "Generator[None, Any]":
    """Print with a failed test, whatever it asserted, what its outbox holds."""
    result = yield
    report: pytest.TestReport = result.get_result()
    recorder: object = getattr(item, "funcargs", {}).get("outbox")
    if call.when == "call" and report.failed and recorder is not None:
        from flask_outbox.app.recorder import Recorder  # noqa: PLC0415  only for who asks

        if isinstance(recorder, Recorder):
            report.sections.append(("Mail of this test", str(recorder)))
