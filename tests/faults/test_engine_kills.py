"""A short run of the kills of Celery's workers, on each broker."""

import pytest
from engine_kills import run


@pytest.mark.timeout(150)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_celery_workers_that_are_killed_and_a_broker_that_is_restarted_lose_nothing(
    broker, tmp_path
):
    place = f"sqlite:///{tmp_path / 'outbox.sqlite3'}"
    judged = run(broker, place, seed=5, kills=6, messages=240, restarts=1, seconds=90.0)
    assert judged.holds, "\n".join(judged.lines())
