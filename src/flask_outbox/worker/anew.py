"""A worker process that reads the configuration anew: the program from its start, not a fork.

A fork has the app as its parent once imported it. What is started here runs the same command again,
in the environment that the command was given, without what the app or a .env file put there since:
so both are read as they are now. Two pipes are handed over: by one it hears that its parent died,
by the other it says that it works.
"""

import os
import signal
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

HANDED = "FLASK_OUTBOX_HANDED_OVER"
BORN_WITH = Path("/proc/self/environ")


@dataclass(frozen=True, slots=True)
class Handed:
    """What a worker process has of its parent, as file descriptors."""

    lifeline: int  # ends when the parent does
    ready: int | None = None  # takes one byte, when the worker has begun

    def tell_ready(self) -> None:
        """Say that it works."""
        if self.ready is not None:
            with suppress(OSError):  # a parent that is gone
                os.write(self.ready, b"1")
                os.close(self.ready)


def command() -> list[str]:
    """Give the command line that this process was started with, interpreter and all."""
    return [sys.executable, *sys.orig_argv[1:]]


def folder() -> str:
    """Give the folder we are in, by the name it was entered by: a link there may be moved."""
    here = os.getcwd()  # noqa: PTH109  Path.cwd() is the same, and says less of what it does
    named = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.samefile(named, here):  # noqa: PTH121  both are texts
            return named
    return here


def environment() -> Mapping[str, str]:
    """Give the environment that this process was started with, where that can be known."""
    with suppress(OSError):
        entries = BORN_WITH.read_bytes().rstrip(b"\0").split(b"\0")
        # Not what a tool that sets the title of a process left of it.
        if all(name and equals for name, equals, _ in (each.partition(b"=") for each in entries)):
            pairs = (os.fsdecode(each).split("=", 1) for each in entries)
            return {name: value for name, value in pairs if name != HANDED}
    return os.environ


def begin(command: Sequence[str], where: str, handed: Handed) -> NoReturn:
    """Become another worker of this process's parent; to be called in a fork. Raises OSError."""
    pipes = [handed.lifeline, *([] if handed.ready is None else [handed.ready])]
    for each in pipes:
        os.set_inheritable(each, True)  # noqa: FBT003  the only way to say it
    # Until it can listen: a terminal tells all its processes, and the parent repeats the others.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.chdir(where)
    ours = {HANDED: ":".join(map(str, pipes))}
    os.execve(command[0], [*command], {**environment(), **ours})  # noqa: S606  our own command line


def handed_over() -> Handed | None:
    """Give what the parent handed over, once; None where this process was started by a person.

    Whoever's parent died meanwhile is a worker all the same, and ends: its lifeline did. As a
    parent itself it would start as many more, which nobody would ever stop.
    """
    named = os.environ.pop(HANDED, "")
    if not named:
        return None
    pipes = list(map(int, named.split(":")))
    try:
        for each in pipes:
            os.set_inheritable(each, False)  # noqa: FBT003  the only way to say it
        are_pipes = all(stat.S_ISFIFO(os.fstat(each).st_mode) for each in pipes)
    except OSError:
        return None
    return Handed(*pipes) if are_pipes else None
