"""Where a worker may be started: never by a command, nor in the parent of those that serve.

That is a reloader's, and uWSGI's, which forks without a word to a thread that works.
"""

import logging
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

import click
from flask import Flask, has_app_context, has_request_context
from flask.cli import FlaskGroup, ScriptInfo

from flask_outbox.outbox.forks import uwsgi_forks_next

log = logging.getLogger("flask_outbox")

RELOADER = "werkzeug._reloader"

requests_seen: set[int] = set()  # the processes that have served a request


@contextmanager
def context(app: Flask) -> Generator[None]:
    """Push the app's context where none is."""
    if has_app_context():
        yield
    else:
        with app.app_context():
            yield


def may_start(app: Flask) -> bool:
    """Tell whether this process is one that serves requests, as far as can be known."""
    command = click.get_current_context(silent=True)
    # Only Flask's own commands: uvicorn and Celery are click commands, too, and stay.
    if command and command.find_object(ScriptInfo) and not _is_server(command):
        return False
    if has_request_context() or os.getpid() in requests_seen:
        return True
    if uwsgi_forks_next():  # its children begin with what is in the outbox
        return False
    # With the reloader, the parent runs the same code as its child, and serves nothing.
    return _is_reloaders_child() or not (app.debug or _reloads(command))


def must_leave() -> bool:
    """Tell whether this process turned out to be a reloader's parent.

    Before ``app.run(debug=True)`` is called, nobody knows. From then on the main thread waits for
    its child, which has a worker of its own.
    """
    if os.getpid() in requests_seen or _is_reloaders_child() or RELOADER not in sys.modules:
        return False
    frames = sys._current_frames()  # noqa: SLF001  CPython's and PyPy's  # pyright: ignore[reportPrivateUsage]
    frame = frames.get(threading.main_thread().ident or 0)
    while frame is not None:
        inside = frame.f_code.co_name == "restart_with_reloader"
        if inside and frame.f_globals.get("__name__") == RELOADER:
            return True
        frame = frame.f_back
    return False


def _is_reloaders_child() -> bool:
    return os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _reloads(command: click.Context | None) -> bool:
    """Tell whether ``flask run`` was told to; by default it does so in debug mode."""
    return bool(command and command.params.get("reload"))


def _is_server(command: click.Context) -> bool:
    """Tell ``flask run`` from a command of the app's own that is called run in its group."""
    group = command.parent.command if command.parent else None
    return command.info_name == "run" and isinstance(group, FlaskGroup)
