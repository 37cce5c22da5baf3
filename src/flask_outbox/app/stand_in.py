"""Stand in for Flask-Mail, for extensions that import it by name."""

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import flask_outbox

NAME = "flask_mail"
NAMES = (
    *("Attachment", "BadHeaderError", "Connection", "FlaskMailUnicodeDecodeError", "Mail"),
    *("Message", "_Mail", "_MailMixin", "_has_newline", "email_dispatched", "force_text"),
    *("sanitize_address", "sanitize_addresses", "sanitize_subject", "signals", "__version__"),
)


class _Loader(Loader):
    """Fills the module, also when it is reloaded."""

    def create_module(self, spec: ModuleSpec) -> None:
        """Have an ordinary one made."""

    def exec_module(self, module: ModuleType) -> None:
        """Give it our names."""
        module.__doc__ = "Flask-Outbox, standing in for Flask-Mail."
        for name in NAMES:
            setattr(module, name, getattr(flask_outbox, name))


def _spec() -> ModuleSpec:
    return ModuleSpec(NAME, _Loader(), origin=flask_outbox.__file__)


def install_as_flask_mail(*, force: bool = False) -> bool:
    """Make ``import flask_mail`` give this package; tell whether it does now.

    Where Flask-Mail itself is installed nothing is changed, unless ``force`` says so. Call it
    before whatever imports flask_mail.
    """
    there = sys.modules.get(NAME)
    if isinstance(getattr(getattr(there, "__spec__", None), "loader", None), _Loader):
        return True
    if not force and (there is not None or find_spec(NAME) is not None):
        return False
    spec = _spec()
    module = ModuleType(NAME)
    module.__spec__ = spec
    module.__loader__ = spec.loader
    module.__file__ = flask_outbox.__file__
    _Loader().exec_module(module)
    sys.modules[NAME] = module
    return True
