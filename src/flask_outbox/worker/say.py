"""The worker's log: ids, counts, kinds of errors; never a whole address, a body or a secret."""

import logging
from contextlib import suppress


class Say:
    """A logger that cannot fail: a full disk under the log never fails a send."""

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


say = Say("flask_outbox.worker")
