"""Where a worker may be started: never by a command, never in a reloader's parent."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

import click
from flask import Flask, has_app_context, has_request_context
from flask.cli import FlaskGroup, ScriptInfo

log = logging.getLogger("flask_outbox")

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
    # With the reloader, the parent runs the same code as its child, and serves nothing.
    return not app.debug or os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _is_server(command: click.Context) -> bool:
    """Tell ``flask run`` from a command of the app's own that is called run in its group."""
    group = command.parent.command if command.parent else None
    return command.info_name == "run" and isinstance(group, FlaskGroup)
