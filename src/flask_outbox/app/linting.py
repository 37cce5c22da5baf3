"""``mail.lint``, and ``flask outbox lint``: mail/lint.py, and what SpamAssassin says besides."""

from dataclasses import replace
from typing import TYPE_CHECKING

from flask_outbox.app import spam as assassin
from flask_outbox.app import starting
from flask_outbox.app.preparing import check_kind, own_copy, prepare
from flask_outbox.mail.lint import Finding, lint
from flask_outbox.mail.message import Message

if TYPE_CHECKING:
    from flask_outbox.app.runtime import Runtime

# What names a template in provider=, whose subject and text only the provider has.
TEMPLATES = frozenset({"Template", "TemplateAlias", "TemplateId", "template", "template_id"})
_OF_A_TEXT = frozenset({"subject", "no-text"})


def lint_message(runtime: "Runtime", message: Message, *, spam: bool) -> list[Finding]:
    """Look through a message as it would be sealed, the sandbox aside; the message stays as it is.

    The functions of before_send take part: what they add is sent, and what they lack is missed.
    """
    check_kind(message)
    with starting.context(runtime.app):
        prepared = prepare(
            own_copy(message),
            replace(runtime.settings, redirect_to=(), allow_only=()),
            runtime.hooks.before_send,
            default_sender=runtime.state.default_sender,
            ascii_attachments=runtime.state.ascii_attachments,
        )
    sealed = prepared.submission
    if sealed is None:
        return []
    if TEMPLATES.isdisjoint(sealed.provider):
        return lint_content(sealed.content, spam=spam)
    return [each for each in lint(sealed.content) if each.rule not in _OF_A_TEXT]


def lint_content(content: bytes, *, spam: bool) -> list[Finding]:
    """Look through a sealed mail; raise MessageError for what is none."""
    found = lint(content)
    return [*found, *assassin.score(content)] if spam else found
