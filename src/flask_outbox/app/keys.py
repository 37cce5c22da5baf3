"""Every MAIL_* key: what it means, how it is read, and what stands where it is not given.

``docs/reference/settings.md`` is written from this list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from flask_outbox.app import reading, reading_dkim, reading_limits, reading_ways

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Key:
    """One key; ``means`` is a sentence of its page in the docs."""

    means: str
    parse: reading.Parse
    default: Any = None
    secret: bool = False


FLASK_MAILS: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_SERVER": Key("The mail server's host.", reading.server, "127.0.0.1"),
        "MAIL_PORT": Key("Its port.", reading.whole(0, 65535), 25),
        "MAIL_USE_TLS": Key("STARTTLS, as on port 587.", reading.truth, default=False),
        "MAIL_USE_SSL": Key("TLS from the first byte, as on 465.", reading.truth, default=False),
        "MAIL_USERNAME": Key("Who logs in.", reading.secret),
        "MAIL_PASSWORD": Key("With what.", reading.secret, secret=True),
        "MAIL_DEFAULT_SENDER": Key(
            "The sender of a message that names none: an address, or a pair of name and address.",
            reading.sender,
        ),
        "MAIL_DEBUG": Key(
            "Log the dialogue with the server, less AUTH and bodies; default: the app's `debug`.",
            reading.level,
        ),
        "MAIL_MAX_EMAILS": Key(
            "Mails over one connection; then a new one.", reading.optional(reading.whole(0))
        ),
        "MAIL_SUPPRESS_SEND": Key(
            "Send nothing, and behave as if; default: the app's `testing`, at the time of sending.",
            reading.optional_truth,
        ),
        "MAIL_ASCII_ATTACHMENTS": Key(
            "Write names of attachments in ASCII (NFKD).", reading.truth, default=False
        ),
    }
)

WAYS_OUT: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_TRANSPORT": Key(
            "The way out as a URL, instead of `MAIL_SERVER` and its like; a list of URLs for"
            " failover, or a mapping of URLs to weights that share the mail.",
            reading.optional(reading_ways.way_out),
            secret=True,
        ),
        "MAIL_TRANSPORTS": Key(
            "More ways out, by name, for `transport=`: a mapping of names to what `MAIL_TRANSPORT`"
            " may be.",
            reading_ways.ways_out,
            MappingProxyType({}),
            secret=True,
        ),
        "MAIL_OAUTH2_TOKEN": Key(
            "For XOAUTH2: a `Microsoft365Token`, a `GoogleToken`, or a function without arguments"
            " that gives a fresh token. By it `MAIL_USERNAME` logs in, and each SMTP URL with a"
            " user and no password.",
            reading.optional(reading.token_source),
        ),
        "MAIL_TLS_CA_FILE": Key(
            "Trust these authorities (PEM) instead of the system's. This key, the three below it"
            " and `MAIL_EHLO_NAME` are for SMTP URLs, too, that do not say it themselves.",
            reading.readable,
        ),
        "MAIL_TLS_FINGERPRINT": Key(
            "Trust exactly the certificate with this SHA-256 fingerprint.", reading.fingerprint
        ),
        "MAIL_TLS_CERT_FILE": Key("The client's own certificate (PEM).", reading.readable),
        "MAIL_TLS_KEY_FILE": Key("The key that belongs to it (PEM).", reading.readable),
        "MAIL_EHLO_NAME": Key(
            "What we call ourselves; default: the address of our end of the line.", reading.text
        ),
        "MAIL_TIMEOUT": Key(
            "Seconds for one message; default: 60 where somebody waits, 600 in workers.",
            reading.optional(reading.seconds),
        ),
    }
)

MESSAGES: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_BASE_URL": Key(
            "Where people reach the app: what links in mails are to begin with.",
            reading.web_address,
        ),
        "MAIL_RETURN_PATH": Key(
            "Where bounces go; default: the sender.", reading.optional(reading.address)
        ),
        "MAIL_REDIRECT_TO": Key(
            "A sandbox: every mail goes to these addresses instead.", reading.addresses, ()
        ),
        "MAIL_ALLOW_ONLY": Key(
            "A sandbox: only these addresses and domains are written to.", reading.allowances, ()
        ),
        "MAIL_ATTACHMENT_ROOTS": Key(
            "The folders that `attach_file` may read from, by absolute paths; none by default.",
            reading.folders,
            (),
        ),
        "MAIL_TEXT_FROM_HTML": Key(
            "Make the text part from the HTML where a message has none.",
            reading.truth,
            default=False,
        ),
        "MAIL_MAX_SIZE": Key(
            "Octets of a sealed message; default: 25 MiB.", reading.optional(reading.whole(1))
        ),
        "MAIL_MAX_RECIPIENTS": Key(
            "Recipients of one message; default: 1,000.", reading.optional(reading.whole(1))
        ),
    }
)

DKIM: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_DKIM_DOMAIN": Key(
            "Whose mail is signed: the domain of its senders, or one above it.",
            reading_dkim.domain,
        ),
        "MAIL_DKIM_SELECTOR": Key(
            "Under which name the key is published: `selector._domainkey.domain`.",
            reading_dkim.selector,
        ),
        "MAIL_DKIM_KEY": Key(
            "The private key, RSA or Ed25519, as PEM; `flask outbox dkim-keygen` makes one.",
            reading.secret,
            secret=True,
        ),
        "MAIL_DKIM_KEYS": Key(
            "More keys, of this or of other domains: a list of mappings with `domain`, `selector`,"
            " and `key`, or `key_file`, the name of a file.",
            reading_dkim.keys,
            (),
            secret=True,
        ),
    }
)

OUTBOX: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_OUTBOX_URL": Key(
            "Where mail waits: `sqlite:///` and a path, `postgresql://user:password@host/database`,"
            " or `mysql://user:password@host/database`, MariaDB too; default: `outbox.sqlite3` in"
            " the instance folder.",
            reading.optional(reading.outbox_url),
            secret=True,
        ),
        "MAIL_OUTBOX_KEYS": Key(
            "Fernet keys for the content of sensitive mail while it waits: the first encrypts, all"
            " decrypt; default: one that is derived from `SECRET_KEY`, and from each of"
            " `SECRET_KEY_FALLBACKS`.",
            reading.fernet_keys,
            (),
            secret=True,
        ),
        "MAIL_WORKER": Key(
            "Who sends what waits: a thread of the app (`embedded`), only `flask outbox worker`"
            " (`process`), or tasks of the app's Celery (`celery`).",
            reading.one_of("embedded", "process", "celery"),
            "embedded",
        ),
        "MAIL_CONNECTIONS": Key(
            "Connections of one worker to one transport.", reading.whole(1, 1000), 5
        ),
        "MAIL_LEASE": Key(
            "Seconds without a sign of life, after which a worker's mail is another's; 1 or more.",
            reading.lease,
            30.0,
        ),
        "MAIL_GRACE": Key(
            "Seconds that what is under way may take when a worker is told to stop.",
            reading.seconds,
            10.0,
        ),
        "MAIL_GIVE_UP": Key(
            "Seconds from when a mail was first due until it fails.", reading.seconds, 2 * 86400.0
        ),
        "MAIL_MAX_UNCLEAR": Key(
            "How often a mail that may have been accepted is sent again.", reading.whole(0), 2
        ),
        "MAIL_KEEP_CONTENT": Key(
            "Seconds that the content of a mail is kept after it was accepted, was cancelled or"
            " expired; None: as long as its row.",
            reading.optional(reading.seconds),
            30 * 86400.0,
        ),
        "MAIL_KEEP_ROWS": Key(
            "Seconds that a mail's row, with its recipients and history, is kept after it ended,"
            " whichever way; None: for ever.",
            reading.optional(reading.seconds),
            365 * 86400.0,
        ),
    }
)

RATES: Mapping[str, Key] = MappingProxyType(
    {
        "MAIL_RATE": Key(
            "How many mails may go by a transport, all workers together: `50/s`, `1000/m`,"
            " `20000/h` or `50000/d` for each; or a mapping of transports to rates, `*` for every"
            " other.",
            reading_limits.rates,
            NOTHING,
        ),
        "MAIL_DOMAIN_RATES": Key(
            "How many may go to a recipient's domain by one transport: a mapping of domains to"
            " rates, `*` for every other; one rate is for each domain.",
            reading_limits.domain_rates,
            NOTHING,
        ),
        "MAIL_CONCURRENCY": Key(
            "How many mails may be under way by a transport, all workers together: a number for"
            " each, or a mapping of transports to numbers.",
            reading_limits.at_once,
            NOTHING,
        ),
        "MAIL_DOMAIN_CONCURRENCY": Key(
            "How many may be under way to a recipient's domain by one transport: a number for each"
            " domain, or a mapping of domains to numbers.",
            reading_limits.domains_at_once,
            NOTHING,
        ),
        "MAIL_WARM_UP": Key(
            "Sending domains that are new: a mapping of them to the days on which they begin, like"
            " `2026-12-01`; 50 mails on that day, half as many again each day, for 28 days.",
            reading_limits.warm_up,
            NOTHING,
        ),
    }
)

KEYS: Mapping[str, Key] = MappingProxyType(
    {**FLASK_MAILS, **WAYS_OUT, **MESSAGES, **DKIM, **OUTBOX, **RATES}
)
