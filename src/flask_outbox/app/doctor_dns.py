"""The doctor's look at what domains publish: MX, SPF, DKIM, DMARC; and PTR of addresses."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from flask_outbox.app import signing
from flask_outbox.app.patient import Patient
from flask_outbox.mail import dmarc, spf
from flask_outbox.mail.diagnosis import Diagnosis, Grade
from flask_outbox.mail.lookup import Ask, Found, How
from flask_outbox.transports.carries import completed, is_signed_by_us

if TYPE_CHECKING:
    from flask_outbox.wire.dns import Resolver

NOT_INSTALLED = "pip install 'flask-outbox[doctor]'"
LATER = "Try again; if it stays so, look at the name servers of the domain, and at this machine's."


def published(patient: Patient) -> Iterator[Diagnosis]:
    """Look at every domain of From, at our keys, and at the addresses that were named."""
    if not patient.dns:
        yield Diagnosis("dns", Grade.SKIPPED, "Nothing was looked up: --no-dns.")
        return
    try:
        from flask_outbox.wire.dns import Resolver  # noqa: PLC0415  brings dnspython
    except ImportError:
        yield Diagnosis("dns", Grade.SKIPPED, "dnspython is not installed.", NOT_INSTALLED)
        return
    resolver = Resolver(patient.nameservers, patient.port, seconds=patient.seconds)
    if not patient.from_domains:
        yield Diagnosis("dns", Grade.SKIPPED, "No domain to look up: name one by --domain.")
    for domain in patient.from_domains:
        bounces = patient.bounce_domain(domain)
        for each in dict.fromkeys((domain, bounces)):
            yield _mx(each, resolver.look_up(Ask(each, "MX")), resolver)
        if any(ours for ours, _ in _kinds(patient)):
            yield _spf(bounces, resolver.carry(spf.check(bounces)))
        else:
            text = f"The envelope of mail from {domain} is the provider's, and SPF its affair."
            yield Diagnosis("spf", Grade.SKIPPED, text)
        yield from _dmarc(patient, domain, bounces, resolver)
    yield from _dkim(patient, resolver)
    yield from _ptr(patient, resolver)


def _mx(domain: str, found: Found, resolver: "Resolver") -> Diagnosis:
    if found.unknown:
        return Diagnosis("mx", Grade.WARNING, f"MX of {domain}: {found.how.value}.", LATER)
    if found.how is How.FOUND and found.records != ("0 .",):
        return Diagnosis("mx", Grade.OK, f"{domain} takes mail: {', '.join(found.records)}.")
    if found.how is How.EMPTY and (told := _by_address(domain, resolver)):
        return told
    why = "says that it takes no mail (null MX)"
    if not found.records:
        why = f"has no MX: {found.how.value}"
    return Diagnosis(
        "mx",
        Grade.ERROR,
        f"{domain} {why}; neither bounces nor replies reach you, and many refuse mail from it.",
        "Publish an MX, or send from a domain that has one.",
    )


def _by_address(domain: str, resolver: "Resolver") -> Diagnosis | None:
    """Look for what stands in for an MX (RFC 5321 section 5.1)."""
    addresses = [resolver.look_up(Ask(domain, kind)) for kind in ("A", "AAAA")]
    if any(each.records for each in addresses):
        text = f"{domain} has no MX; bounces go to its own address."
        return Diagnosis("mx", Grade.WARNING, text, "Publish an MX for it.")
    why = next((each.how.value for each in addresses if each.unknown), "")
    if not why:
        return None
    text = f"{domain} has no MX, and of its own address: {why}."
    return Diagnosis("mx", Grade.WARNING, text, LATER)


def _spf(domain: str, found: spf.Spf) -> Diagnosis:
    if found.unknown:
        return Diagnosis("spf", Grade.WARNING, f"SPF of {domain}: {found.unknown}.", LATER)
    if found.problem:
        return Diagnosis(
            "spf",
            Grade.ERROR,
            f"SPF of {domain} is void to receivers: {found.problem}.",
            f"Mend the record: one, of at most {spf.MOST} look-ups, {spf.MOST_VOID} in vain.",
        )
    if found.record is None:
        text = f"{domain} has no SPF record."
        return Diagnosis("spf", Grade.ERROR, text, "Publish what your mail server's owner names.")
    return _spf_of_others(domain, found)


def _spf_of_others(domain: str, found: spf.Spf) -> Diagnosis:
    """Say what a record that can be used makes of mail from elsewhere."""
    counted = f"{found.lookups} of {spf.MOST} look-ups"
    end = "End it with ~all or -all."
    if found.other == "pass":
        return Diagnosis("spf", Grade.ERROR, f"SPF of {domain} lets everybody send (+all).", end)
    if found.everybody:
        text = f"SPF of {domain} lets everybody send, by {found.everybody}; {counted}."
        return Diagnosis("spf", Grade.WARNING, text, "Name your mail servers in place of that.")
    if found.other == "neutral":
        text = f"SPF of {domain} says nothing of other senders; {counted}."
        return Diagnosis("spf", Grade.WARNING, text, end)
    if not found.other:
        text = f"SPF of {domain} redirects by a macro, which is not followed; {counted}."
        return Diagnosis("spf", Grade.SKIPPED, text)
    return Diagnosis("spf", Grade.OK, f"SPF of {domain} can be used: {counted}.")


def _dmarc(
    patient: Patient, domain: str, bounces: str, resolver: "Resolver"
) -> Iterator[Diagnosis]:
    found = resolver.carry(dmarc.check(domain))
    if found.problem:
        text = f"DMARC of {domain} is void to receivers: {found.problem}."
        yield Diagnosis("dmarc", Grade.ERROR, text, "Publish one record: v=DMARC1; p=none")
        return
    if found.unknown and not found.policy:
        yield Diagnosis("dmarc", Grade.WARNING, f"DMARC of {domain}: {found.unknown}.", LATER)
        return
    if not found.policy:
        yield Diagnosis(
            "dmarc",
            Grade.WARNING,
            f"{domain} has no DMARC record; large mailbox providers ask for one.",
            f"Publish at _dmarc.{domain}: v=DMARC1; p=none; rua=mailto:… of yours.",
        )
        return
    yield Diagnosis("dmarc", Grade.OK, f"DMARC of {domain} has the policy {found.policy}.")
    yield from _alignment(patient, domain, bounces, found, resolver)


def _kinds(patient: Patient) -> dict[tuple[bool, bool], list[str]]:
    """Sort the ways out by what is ours of what leaves by them: the envelope, the signature."""
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for route, each in patient.ways.items():
        kind = completed(each.carries).envelope, is_signed_by_us(each.carries)
        kinds.setdefault(kind, []).append(route)
    return kinds


def _alignment(
    patient: Patient, domain: str, bounces: str, found: dmarc.Dmarc, resolver: "Resolver"
) -> Iterator[Diagnosis]:
    standing = {
        "SPF": _standing(domain, [bounces], found, resolver, strict=found.strict_spf),
        "DKIM": _standing(
            domain, _signers(patient, domain), found, resolver, strict=found.strict_dkim
        ),
    }
    kinds = _kinds(patient)
    for (envelope, signature), routes in kinds.items():
        ours = {"SPF": envelope, "DKIM": signature}
        judged = {name: each for name, each in standing.items() if ours[name]}
        ways = [name for name, each in judged.items() if each.stands]
        unknown = [each.unknown for each in judged.values() if each.unknown]
        by = f"what leaves by {', '.join(routes)}"
        where = f", for {by}" if len(kinds) > 1 else ""
        if ways:
            text = f"{domain} is aligned by {' and '.join(ways)}{where}."
            yield Diagnosis("alignment", Grade.OK, text)
        elif unknown:
            text = f"Whether {domain} is aligned{where} is not known: {unknown[0]}."
            yield Diagnosis("alignment", Grade.WARNING, text, LATER)
        elif envelope and signature:
            yield Diagnosis(
                "alignment",
                Grade.WARNING if found.policy == "none" else Grade.ERROR,
                f"Neither {bounces} (SPF) nor a key of ours (DKIM) is aligned with {domain}.",
                "Sign by a key of the From domain (flask outbox dkim-keygen), or let"
                " MAIL_RETURN_PATH be of it.",
            )
        else:
            yield Diagnosis(
                "alignment",
                Grade.SKIPPED,
                f"For {by}, {'the envelope' if signature else 'signing'} is the provider's: see"
                f" there that {domain} is verified, signed by its own DKIM, and has a return path"
                " (MAIL FROM) of its own.",
            )


class _Standing(NamedTuple):
    """Whether a domain stands for that of From; ``unknown``: what nobody could tell of it."""

    stands: bool
    unknown: str = ""


def _standing(
    domain: str, others: list[str], found: dmarc.Dmarc, resolver: "Resolver", *, strict: bool
) -> _Standing:
    """Tell it of the first of several that does."""
    unknown = ""
    for other in others:
        theirs = resolver.carry(dmarc.check(other))
        pair = found.organisation, theirs.organisation
        if dmarc.aligned(domain, other, strict=strict, organisations=pair):
            return _Standing(stands=True)
        unknown = unknown or theirs.unknown or found.unknown
    return _Standing(stands=False, unknown="" if strict else unknown)


def _signers(patient: Patient, domain: str) -> list[str]:
    if not signing.is_on(patient.runtime.settings):
        return []
    from flask_outbox.transports.dkim import keys_for  # noqa: PLC0415  brings cryptography

    return [key.domain for key in keys_for(domain, patient.runtime.dkim_keys)]


def _dkim(patient: Patient, resolver: "Resolver") -> Iterator[Diagnosis]:
    if not signing.is_on(patient.runtime.settings):
        return
    from flask_outbox.transports.dkim_record import trouble  # noqa: PLC0415  brings cryptography

    for key in (key for keys in patient.runtime.dkim_keys.values() for key in keys):
        found = resolver.look_up(Ask(key.name, "TXT"))
        what = trouble(key, found)
        if found.unknown:
            yield Diagnosis("dkim", Grade.WARNING, f"{key.name}: {what}.", LATER)
        elif what:
            yield Diagnosis(
                "dkim",
                Grade.ERROR,
                f"The record {key.name} does not fit our key: {what}.",
                f"Publish there as TXT: {key.record}",
            )
        else:
            yield Diagnosis("dkim", Grade.OK, f"The record {key.name} is that of our key.")


def _ptr(patient: Patient, resolver: "Resolver") -> Iterator[Diagnosis]:
    if not patient.addresses:
        text = "Which address mail leaves from is not known here: name it by --address."
        yield Diagnosis("ptr", Grade.SKIPPED, text)
    for address in patient.addresses:
        found = resolver.look_up(Ask(address, "PTR"))
        kind = "AAAA" if ":" in address else "A"
        back = [resolver.look_up(Ask(name, kind)) for name in found.records]
        unknown = [each for each in (found, *back) if each.unknown]
        if any(address in each.records for each in back):
            yield Diagnosis("ptr", Grade.OK, f"{address} is {found.records[0]}, and back.")
        elif unknown:
            why = unknown[0].how.value
            yield Diagnosis("ptr", Grade.WARNING, f"PTR of {address}: {why}.", LATER)
        else:
            yield Diagnosis(
                "ptr",
                Grade.ERROR,
                f"{address} has no name that leads back to it; large mailbox providers refuse it.",
                "Have its owner publish a PTR to a name whose address it is.",
            )
