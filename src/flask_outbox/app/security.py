"""For Flask-Security: ``Security(app, datastore, mail_util_cls=OutboxMailUtil)``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from flask_outbox.app.extension import Mail
from flask_outbox.app.flask_mail import Message

if TYPE_CHECKING:

    class _MailUtil:
        """What we use of Flask-Security's class of that name."""

        def __init__(self, app: Any) -> None: ...

else:
    try:
        _MailUtil = import_module("flask_security").MailUtil
    except ImportError as missing:
        raise ImportError(
            "OutboxMailUtil is for Flask-Security, which is not installed: pip install"
            " Flask-Security."
        ) from missing


class OutboxMailUtil(_MailUtil):
    """Checks addresses as Flask-Security does, and sends by way of the outbox.

    The request that asks for a reset does not wait for the mail server, whether the account
    exists or not.
    """

    def send_mail(  # noqa: PLR0913, PLR0917  Flask-Security's signature
        self,
        template: str,
        subject: str,
        recipient: str | tuple[str, str],
        sender: str | tuple[str, str],
        body: str | None,
        html: str | None,
        **kwargs: Any,  # noqa: ARG002  the template's context
    ) -> None:
        """Send it later. ``template`` becomes a tag."""
        pair = isinstance(sender, tuple)
        message = Message(
            str(subject),
            [recipient],
            body,
            html,
            sender=cast("tuple[str, str]", tuple(map(str, sender))) if pair else str(sender),
            tags=[str(template)],
            sensitive=True,
        )
        Mail().send_later(message)  # of the current app
