"""Stop with a sentence instead of a stack trace where Python is too old."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  this file exists for older ones
    sys.exit(f"Flask-Outbox needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
