"""E-mail for Flask that a user never waits for, and that is never lost.

::

                     app              the Flask face: Mail, settings, CLI
                      │
                   worker             introduces the three below to one another
        ┌─────────────┼───────────┐
     outbox      transports     wire
   keeps mail    speaks mail    carries bytes
  (SQL, no net)   (no I/O)      (sockets, no SQL)
        └─────────────┼───────────┘
                     mail             values and rules

Imports run downwards only. ``docs/architecture.md`` says the rest; ``worker/journey.py`` is the
file to open first.
"""
