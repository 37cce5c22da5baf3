"""The doctor's look at the app's settings and keys."""

from collections.abc import Iterator
from itertools import chain

from flask_outbox.app import engines, preparing, privacy, signing, ways_out
from flask_outbox.app.patient import Patient
from flask_outbox.app.settings import unknown
from flask_outbox.mail.address import parse_address
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.mail.errors import ConfigurationError, MessageError
from flask_outbox.mail.message import Message
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.carries import is_signed_by_us

ANYBODY = "somebody@example.com"  # in place of a default sender
REFUSED = "Look at MAIL_RETURN_PATH and MAIL_DEFAULT_SENDER, or choose another transport."


def settings(patient: Patient) -> Iterator[Diagnosis]:
    """Look at MAIL_*: what could never send, and what sends nothing or to others."""
    patient.runtime.check()
    is_well = True
    for found in chain(_of_settings(patient), _refusing(patient)):
        is_well = False
        yield found
    if is_well:
        yield Diagnosis("settings", Grade.OK, "MAIL_* are read, and can send.")


def _of_settings(patient: Patient) -> Iterator[Diagnosis]:
    runtime = patient.runtime
    held = runtime.settings
    for key, hint in unknown(runtime.app.config):
        yield Diagnosis(
            "settings",
            Grade.WARNING,
            f"{key} is not a setting of Flask-Outbox.",
            f"Write {hint}." if hint else "Take it out.",
        )
    if runtime.suppressed:
        yield Diagnosis(
            "settings",
            Grade.WARNING,
            "Nothing is sent: by MAIL_SUPPRESS_SEND, or TESTING.",
            "Set neither where mail is to go out.",
        )
    if not runtime.is_configured:
        yield Diagnosis(
            "settings",
            Grade.WARNING,
            "Nothing says where mail goes: it is given to port 25 of this machine.",
            "Set MAIL_SERVER or MAIL_TRANSPORT.",
        )
    if not runtime.state.default_sender:
        yield Diagnosis(
            "settings",
            Grade.WARNING,
            "MAIL_DEFAULT_SENDER is not set: a message without a sender is refused.",
            "Set it.",
        )
    if (held.redirect_to or held.allow_only) and not runtime.app.debug:
        yield Diagnosis(
            "settings",
            Grade.WARNING,
            "MAIL_REDIRECT_TO or MAIL_ALLOW_ONLY keeps mail from people, outside debug mode.",
            "Take it out where people are to have their mail.",
        )
    if runtime.engine is None and held.worker == "celery":
        try:
            engines.of_celery(runtime.app)
        except ConfigurationError as error:
            fix = "Do as it says: until then send_later takes no mail."
            yield Diagnosis("settings", Grade.ERROR, str(error), fix)


def _refusing(patient: Patient) -> Iterator[Diagnosis]:
    """Tell of each way by which not even a plain message is taken; none is sent."""
    submission = _plain(patient)
    if submission is None:
        return
    for route, transport in patient.ways.items():
        try:
            ways_out.check(ways_out.single(route, transport), submission)
        except MessageError as error:
            text = f"{route}: {error} So no message for it is taken."
            yield Diagnosis("settings", Grade.ERROR, text, REFUSED)


def _plain(patient: Patient) -> Submission | None:
    """Seal a message from the default sender to itself, as each is, but for the app's functions."""
    runtime = patient.runtime
    sender = runtime.state.default_sender or ANYBODY
    recipient = parse_address(sender, "MAIL_DEFAULT_SENDER").addr
    return preparing.prepare(
        Message("A plain message", [recipient], "Nothing more.", sender=sender),
        runtime.settings,
        (),
        default_sender=None,
        ascii_attachments=False,
        at=patient.now(),
    ).submission


def keys(patient: Patient) -> Iterator[Diagnosis]:
    """Encrypt and decrypt a word, and load what mail is signed with."""
    runtime = patient.runtime
    ring = privacy.keyring(runtime.app, runtime.settings)
    if not runtime.app.secret_key:
        yield Diagnosis(
            "keys",
            Grade.WARNING,
            "SECRET_KEY is not set: workers cannot be told apart by their settings, and sensitive"
            " mail has no key unless MAIL_OUTBOX_KEYS gives one.",
            "Set SECRET_KEY, the same on every host.",
        )
    try:
        ring.decrypt(ring.encrypt(b"word", patient.now()), "fernet")
    except ConfigurationError as error:
        yield Diagnosis("keys", Grade.WARNING, "Sensitive mail cannot be kept.", str(error))
    else:
        yield Diagnosis("keys", Grade.OK, "Sensitive mail is kept encrypted, and can be read.")
    if not signing.is_on(runtime.settings):
        yield Diagnosis(
            "keys",
            Grade.SKIPPED,
            "Mail is not signed here: no MAIL_DKIM_*.",
            "Set MAIL_DKIM_*, unless what sends your mail on signs it: flask outbox dkim-keygen",
        )
        return
    yield _signed(patient)


def _signed(patient: Patient) -> Diagnosis:
    names = ", ".join(key.name for held in patient.runtime.dkim_keys.values() for key in held)
    ways = patient.ways
    theirs = [route for route, each in ways.items() if not is_signed_by_us(each.carries)]
    if not theirs:
        return Diagnosis("keys", Grade.OK, f"Mail is signed by {names}.")
    text = f"what leaves by {', '.join(theirs)} is the provider's to sign, and not signed by us."
    if len(theirs) < len(ways):
        return Diagnosis("keys", Grade.OK, f"Mail is signed by {names}; {text}")
    return Diagnosis(
        "keys",
        Grade.WARNING,
        f"MAIL_DKIM_* sign nothing: {text}",
        "Have the provider sign by your domain, which it calls verifying it, and take them out.",
    )


def base_url(patient: Patient) -> Iterator[Diagnosis]:
    """Look at what links begin with."""
    url = patient.runtime.settings.base_url
    if url is None:
        yield Diagnosis("base URL", Grade.SKIPPED, "MAIL_BASE_URL is not set.")
    elif not url.lower().startswith("https:") and not patient.runtime.app.debug:
        yield Diagnosis(
            "base URL",
            Grade.WARNING,
            "MAIL_BASE_URL is not https: who is on the way can read and change what links open.",
            "Serve the app by https, and write https: into it.",
        )
    else:
        yield Diagnosis("base URL", Grade.OK, f"Links begin with {url}.")
