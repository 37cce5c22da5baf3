"""The contract of the engines: the worker inside the app, ``flask outbox worker``, and Celery."""

import pytest

from brokers import broker
from contract.engine_contract import EngineContract, Kind
from engine_stage import Stage, clean, on_broker

DESK = {"MAIL_WORKER": "process"}


class TestEmbedded(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        return Kind(Stage.web_process, DESK, {"MAIL_WORKER": "embedded"})


class TestOutboxWorker(EngineContract):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        return Kind(Stage.outbox_worker, DESK, {"MAIL_WORKER": "process"})


class CeleryContract(EngineContract):
    broker = ""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls):
        def run(stage, **mail):
            return stage.celery_worker("prefork", 1, "--beat", **mail)

        mail = {"MAIL_WORKER": "celery"}
        with broker(cls.broker) as url:
            celery = on_broker(url)
            yield Kind(run, mail, mail, celery, {"sweep": 0.3})
            clean(celery)


class TestCeleryOnRedis(CeleryContract):
    broker = "redis"


class TestCeleryOnRabbitmq(CeleryContract):
    broker = "rabbitmq"
