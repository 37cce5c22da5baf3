"""What is logged: ids, counts, kinds of errors; never a whole address, a body or a secret."""

import logging
from contextlib import suppress

TEXT_MOST = 500


def printable(text: str) -> str:
    """Shorten what a far side said, and take out what a terminal would obey."""
    short = text[:TEXT_MOST]
    if short.isprintable():
        return short
    return "".join(each if each.isprintable() else " " for each in short)


class Say:
    """A logger that cannot fail: it is used in the middle of a send, or of a transaction.

    Not by a full disk under the log, nor by an app's own filter that asks for the request.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _log(self, level: int, text: str, *values: object) -> None:
        with suppress(Exception):
            self._logger.log(level, text, *values)

    def debug(self, text: str, *values: object) -> None:
        """Tell what a developer of this package wants to see."""
        self._log(logging.DEBUG, text, *values)

    def info(self, text: str, *values: object) -> None:
        """Tell what an operator may want to see."""
        self._log(logging.INFO, text, *values)

    def warning(self, text: str, *values: object) -> None:
        """Tell what mends itself."""
        self._log(logging.WARNING, text, *values)

    def error(self, text: str, *values: object) -> None:
        """Tell what wants somebody."""
        self._log(logging.ERROR, text, *values)
