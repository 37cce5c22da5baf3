"""The whole way into a real Postfix: open, private, logged in, pipelined, in chunks."""

import re
from dataclasses import replace
from email.utils import formatdate
from itertools import count

import pytest

import certificates
import relay as postfix
from flask_outbox.mail.errors import TooLargeError
from flask_outbox.mail.exchange import Tls
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import Limits, seal
from flask_outbox.mail.outcome import Accepted, Deferred, Fault, Refused
from flask_outbox.mail.submission import Submission
from flask_outbox.transports.smtp import Smtp
from flask_outbox.transports.smtp_login import Security
from wire_drivers import DRIVERS

ADA, BOB, NOBODY = "ada@relay.test", "bob@relay.test", "nobody@relay.test"
OURS = Tls(ca_file=certificates.ca_file())
LOGIN = {"username": postfix.USER, "password": postfix.PASSWORD}
numbers = count(1)


@pytest.fixture(scope="module")
def relay():
    with postfix.running() as running:
        yield running


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request):
    driver = request.param()
    yield driver
    driver.close()


def mail(recipients=(ADA,), body="hello\r\n", **values):
    name = f"<{next(numbers)}.{id(relay)}@shop.example>"
    head = f"From: shop@shop.example\r\nMessage-ID: {name}\r\nDate: {formatdate(0)}\r\n\r\n"
    return Submission(
        sender="shop@shop.example",
        recipients=tuple(recipients),
        content=(head + body).encode(),
        message_id=name,
        date=0.0,
        **values,
    )


def send(driver, transport, *mails):
    return {
        report.submission.message_id: report.receipt
        for report in driver.carry(transport.send(mails), 60.0)
    }


def arrived(relay, mail, count=1):
    """Give the body as it was delivered, with the wire's line ends."""
    found = relay.delivered(mail.message_id.encode(), count)
    assert len(found) == count
    return found[0].partition(b"\n\n")[2].replace(b"\n", b"\r\n").decode()


WAYS = {
    "in the open": lambda relay: Smtp("127.0.0.1", relay.plain),
    "in the open, CRAM-MD5": lambda relay: Smtp("127.0.0.1", relay.plain, **LOGIN),
    "STARTTLS, PLAIN": lambda relay: Smtp(
        "localhost", relay.private, security=Security.REQUIRED, tls=OURS, **LOGIN
    ),
    "TLS from the first byte, LOGIN": lambda relay: Smtp(
        "localhost", relay.implicit, security=Security.IMPLICIT, tls=OURS, **LOGIN
    ),
    "STARTTLS, pinned": lambda relay: Smtp(
        "localhost",
        relay.private,
        security=Security.REQUIRED,
        tls=Tls(fingerprint=certificates.fingerprint()),
        **LOGIN,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_mail_is_accepted_with_its_queue_id_and_delivered(relay, driver, way):
    one = mail()
    receipt = send(driver, WAYS[way](relay), one)[one.message_id]
    assert isinstance(receipt[ADA], Accepted)
    assert re.fullmatch(r"[0-9A-Za-z]{8,}", receipt.reference)
    assert arrived(relay, one) == "hello\r\n"


@pytest.mark.parametrize(
    ("way", "mechanism"),
    [
        ("in the open, CRAM-MD5", "CRAM-MD5"),
        ("STARTTLS, PLAIN", "PLAIN"),
        ("TLS from the first byte, LOGIN", "LOGIN"),
    ],
)
def test_the_relay_saw_who_logged_in_and_how(relay, driver, way, mechanism):
    one = mail()
    reference = send(driver, WAYS[way](relay), one)[one.message_id].reference
    arrived(relay, one)
    seen = f"{reference}: client=.*sasl_method={mechanism}, sasl_username={postfix.USER}@relay.test"
    assert re.search(seen, relay.log())


@pytest.mark.parametrize("way", ["in the open, CRAM-MD5", "STARTTLS, PLAIN"])
def test_a_wrong_password_is_our_fault_and_named_without_the_password(relay, driver, way):
    port = relay.private if "TLS" in way else relay.plain
    security = Security.REQUIRED if "TLS" in way else Security.NONE
    transport = Smtp(
        "localhost", port, username="ada", password="wr0ng-s3cret", security=security, tls=OURS
    )
    one = mail()
    outcome = send(driver, transport, one)[one.message_id][ADA]
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "MAIL_USERNAME" in outcome.text
    assert "535 5.7.8" in outcome.text
    assert "wr0ng" not in outcome.text


def test_an_authority_that_is_not_known_is_our_fault_and_nothing_is_said(relay, driver):
    transport = Smtp("localhost", relay.private, security=Security.REQUIRED, **LOGIN)
    one = mail()
    outcome = send(driver, transport, one)[one.message_id][ADA]
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "MAIL_TLS_CA_FILE" in outcome.text


def test_without_a_login_where_one_is_wanted_nothing_is_accepted(relay, driver):
    transport = Smtp("localhost", relay.private, security=Security.REQUIRED, tls=OURS)
    one = mail()
    outcome = send(driver, transport, one)[one.message_id][ADA]
    assert not isinstance(outcome, Accepted)


def test_each_recipient_has_an_outcome_of_its_own(relay, driver):
    one = mail((ADA, NOBODY, BOB))
    receipt = send(driver, WAYS["in the open"](relay), one)[one.message_id]
    assert list(receipt) == [ADA, NOBODY, BOB]
    assert isinstance(receipt[NOBODY], Refused)
    assert receipt[NOBODY].text.startswith("550 5.1.1")
    assert receipt.accepted == [ADA, BOB]
    arrived(relay, one, 2)


def test_a_mail_that_nobody_takes_does_not_stop_those_around_it(relay, driver):
    mails = [mail(), mail((NOBODY,)), mail(), mail((NOBODY, "nothing@relay.test")), mail()]
    receipts = send(driver, WAYS["in the open"](relay), *mails)
    assert [bool(receipts[each.message_id].accepted) for each in mails] == [
        *(True, False, True, False, True)
    ]
    for each in mails[::2]:
        assert arrived(relay, each) == "hello\r\n"


BODIES = [
    ".\r\n..\r\n.leading\r\n",
    "",
    "no end of line",
    "\r\n\r\n.\r\n",
    "x" * 998 + "\r\n",
    "smuggled\r\n.\r\nMAIL FROM:<evil@shop.example>\r\n",
]


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_arrives_byte_by_byte(relay, driver, body, window):
    transport = Smtp("127.0.0.1", relay.plain, window=window)
    one = mail(body=body)
    assert send(driver, transport, one)[one.message_id].accepted == [ADA]
    assert arrived(relay, one).removesuffix("\r\n") == body.removesuffix("\r\n")


@pytest.mark.parametrize(("way", "many"), [("in the open", 200), ("STARTTLS, PLAIN", 201)])
def test_two_hundred_mails_go_over_one_line(relay, driver, way, many):
    many += 10 * (driver.name == "asyncio")  # so that each run is told from the others in the log
    mails = [mail(body=f"number {number}\r\n") for number in range(many)]
    receipts = send(driver, WAYS[way](relay), *mails)
    assert all(receipt.accepted == [ADA] for receipt in receipts.values())
    assert len({receipt.reference for receipt in receipts.values()}) == many
    driver.rest()
    relay.logged(f"disconnect from .* mail={many} ")


def test_a_line_that_was_kept_serves_the_next_batch(relay, driver):
    transport = WAYS["STARTTLS, PLAIN"](relay)
    many = 21 if driver.name == "asyncio" else 22  # told from all others in the log
    first, rest = mail(), [mail() for _ in range(many - 1)]
    send(driver, transport, first)
    assert len(send(driver, transport, *rest)) == many - 1
    driver.rest()
    relay.logged(f"disconnect from .* starttls=1 auth=1 mail={many} ")


def test_five_megabytes_arrive(relay, driver):
    one = mail(body=("x" * 76 + "\r\n") * 67_000)
    assert send(driver, WAYS["STARTTLS, PLAIN"](relay), one)[one.message_id].accepted == [ADA]
    assert arrived(relay, one) == one.content.decode().partition("\r\n\r\n")[2]


def test_a_header_of_a_part_as_long_as_we_let_it_be_arrives_whole(relay, driver):
    message = Message("s", [ADA], "hello", sender="shop@shop.example")
    message.attach("f" * 62_000, "text/plain", b"x", headers={"X-Note": "word " * 19_900})
    one = seal(message, now=0.0)
    with pytest.raises(TooLargeError):
        seal(message, now=0.0, limits=Limits(field=102_100))
    send(driver, WAYS["in the open"](relay), one)
    body = one.content.decode().partition("\r\n\r\n")[2]
    assert arrived(relay, one) == body


def test_what_is_larger_than_the_relay_takes_is_refused_before_it_is_sent(relay, driver):
    one = mail(body=("x" * 76 + "\r\n") * 400_000)
    outcome = send(driver, WAYS["in the open"](relay), one)[one.message_id][ADA]
    assert isinstance(outcome, Refused)
    assert "30000000" in outcome.text


def test_an_address_in_utf_8_is_delivered(relay, driver):
    whom = "jos\u00e9@relay.test"
    one = replace(mail((whom,)), utf8=True)
    assert send(driver, WAYS["in the open"](relay), one)[one.message_id].accepted == [whom]
    arrived(relay, one)
