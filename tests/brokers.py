"""Real brokers for the tests: those that run on this machine, else some of the tests' own.

::

    with broker("redis") as url:      # or "rabbitmq"
        Celery(broker=url)

What runs already is shared with others: use names that nobody else has (``task_default_queue``,
and for Redis ``global_keyprefix``), and clean up.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from time import monotonic, sleep

import amqp
import redis

from ports import free_port

BOUND = 60.0  # Erlang takes its time to start
RABBITMQ = "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"


@contextlib.contextmanager
def broker(name: str, *, own: bool = False, port: int = 0) -> Iterator[str]:
    """Give the URL of one that runs; ``own``: of one that the test may stop, perhaps on a port."""
    home, answers, private = BROKERS[name]
    if not own and answers(home):
        yield home
        return
    with private(port) as url:
        yield url


def redis_answers(url: str) -> bool:
    """Tell whether it takes commands."""
    with contextlib.suppress(redis.RedisError, OSError), redis.Redis.from_url(url) as client:
        return bool(client.ping())
    return False


def rabbitmq_answers(url: str) -> bool:
    """Tell whether it lets the tests in."""
    host = url.removeprefix("amqp://guest:guest@").removesuffix("//")
    with contextlib.suppress(amqp.AMQPError, OSError), amqp.Connection(host, connect_timeout=5):
        return True
    return False


@contextlib.contextmanager
def own_redis(port: int = 0) -> Iterator[str]:
    """Run a Redis that keeps nothing on disk, as Debian's default but for the port."""
    port = port or free_port()
    url = f"redis://127.0.0.1:{port}/0"
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with (
        tempfile.TemporaryDirectory(prefix="flask-outbox-redis-") as folder,
        _running(["redis-server", *options, "--dir", folder], {}, Path(folder)) as server,
    ):
        _until(lambda: redis_answers(url), server, Path(folder))
        yield url


@contextlib.contextmanager
def own_rabbitmq(port: int = 0) -> Iterator[str]:
    """Run a RabbitMQ, and the port mapper that Erlang wants to have beside it."""
    port, distribution, mapper = port or free_port(), free_port(), free_port()
    url = f"amqp://guest:guest@127.0.0.1:{port}//"
    with tempfile.TemporaryDirectory(prefix="flask-outbox-rabbitmq-") as name:
        folder = Path(name)
        environment = {
            "HOME": name,
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            **{
                f"RABBITMQ_{each}": str(folder / each.lower())
                for each in (
                    *("MNESIA_BASE", "LOG_BASE", "ENABLED_PLUGINS_FILE", "PID_FILE"),
                    *("CONFIG_FILE", "ADVANCED_CONFIG_FILE", "CONF_ENV_FILE"),
                    "GENERATED_CONFIG_DIR",
                )
            },
        }
        [program] = glob(RABBITMQ)  # noqa: PTH207  an absolute pattern
        with (
            _running(["epmd", "-port", str(mapper)], environment, folder),
            _running([program], environment, folder) as server,
        ):
            _until(lambda: rabbitmq_answers(url), server, folder)
            yield url


BROKERS = {
    "redis": ("redis://127.0.0.1:6379/0", redis_answers, own_redis),
    "rabbitmq": ("amqp://guest:guest@127.0.0.1:5672//", rabbitmq_answers, own_rabbitmq),
}


@contextlib.contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program; whatever it started itself is gone with it."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        program = subprocess.Popen(
            [shutil.which(command[0]) or command[0], *command[1:]],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGTERM)
        try:
            program.wait(BOUND)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def _until(answers, server: "subprocess.Popen[bytes]", folder: Path) -> None:
    until = monotonic() + BOUND
    while not answers():
        logs = "\n".join(each.read_text(errors="replace") for each in folder.glob("*.log"))
        assert server.poll() is None, f"it did not start\n{logs}"
        assert monotonic() < until, f"it does not answer\n{logs}"
        sleep(0.05)  # another program's port: there is nothing to wait on
