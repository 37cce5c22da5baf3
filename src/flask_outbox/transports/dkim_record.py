"""Whether the record that is published is that of our key: RFC 6376 section 3.6.1."""

from flask_outbox.mail.lookup import Found, How
from flask_outbox.mail.say import printable
from flask_outbox.transports.dkim_key import DkimKey


def trouble(key: DkimKey, found: Found) -> str:
    """Say what is wrong with what was found under the key's name; nothing where it is ours."""
    if found.how is not How.FOUND:
        return str(found.how.value)
    records = [tags for tags in map(_tags, found.records) if "p" in tags]
    if len(records) != 1:
        return f"there are {len(records)} records where one is read"
    tags, ours = records[0], _tags(key.record)
    kind = tags.get("k", "rsa")
    said = printable(kind)[:20]  # in a terminal
    wrong = {
        "its v= is not DKIM1, or does not stand first": "v" in tags
        and (next(iter(tags)), tags["v"]) != ("v", "DKIM1"),
        "its h= leaves out sha256": "sha256" not in tags.get("h", "sha256").split(":"),
        "its s= leaves out email": {"email", "*"}.isdisjoint(tags.get("s", "*").split(":")),
        "it says that the key was revoked": not tags["p"],
        f"it is for a key of the kind {said}": kind != ours["k"],
        "it has another key": tags["p"] != ours["p"],
        "it is marked as a test (t=y), and receivers leave it aside": "y"
        in tags.get("t", "").split(":"),
    }
    return next((why for why, holds in wrong.items() if holds), "")


def _tags(record: str) -> dict[str, str]:
    pairs = (each.partition("=") for each in record.split(";"))
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}
