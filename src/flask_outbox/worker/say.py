"""The worker's log."""

from flask_outbox.mail.say import Say

say = Say("flask_outbox.worker")
