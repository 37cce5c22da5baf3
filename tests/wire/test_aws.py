"""Where credentials of AWS are found, and what is signed with them."""

import json
import logging

import pytest

from aws_signature import is_signed
from contract.http_mails import ADA, plain, sealed
from flask_outbox.mail.exchange import HttpRequest, Sign
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.transports.ses import Ses
from flask_outbox.wire import aws
from hostile_http import HostileHttp, say
from wire_drivers import DRIVERS

REGION = "eu-west-1"
ID, SECRET, TOKEN = "AKIDEXAMPLE", "s3cret/of+a=key", "T0KEN-of-a-session"
ROLE = "/latest/meta-data/iam/security-credentials/"


@pytest.fixture(params=DRIVERS, ids=lambda driver: driver.name)
def driver(request):
    driver = request.param()
    yield driver
    driver.close()


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Make it a machine that has no credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    aws.forget()
    yield
    aws.forget()


def send(driver, script=None, account=None):
    """Send a mail; give the server and the outcome."""
    with HostileHttp(script or {}) as server:
        transport = Ses(REGION, account, server.home)
        (report,) = driver.carry(transport.send([sealed(plain())]))
        driver.rest()
    return server, report.receipt[ADA]


def signed_by(server, key_id, secret, token=""):
    (asked,) = server.requests
    assert asked.headers.get("x-amz-security-token", "") == token
    return is_signed(asked, secret, f"{key_id}/", f"/{REGION}/ses/aws4_request")


def test_the_environments(driver, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    server, outcome = send(driver)
    assert isinstance(outcome, Accepted)
    assert signed_by(server, ID, SECRET, TOKEN)
    assert not signed_by(server, ID, "another", TOKEN)


def test_a_profiles(driver, monkeypatch, tmp_path):
    file = tmp_path / "credentials"
    key = f"aws_access_key_id={ID}\naws_secret_access_key={SECRET}\n"
    file.write_text(f"[default]\naws_access_key_id=O\naws_secret_access_key=o\n[mail]\n{key}")
    monkeypatch.setenv("AWS_PROFILE", "mail")
    server, _ = send(driver)
    assert signed_by(server, ID, SECRET)


def test_an_instances_role(driver, monkeypatch):
    granted = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": ID,
        "SecretAccessKey": SECRET,
        "Token": TOKEN,
        "Expiration": "2199-01-01T00:00:00Z",
    }
    told = {
        ("PUT", "/latest/api/token"): b"imds-token",
        ("GET", ROLE): b"mailer",
        ("GET", f"{ROLE}mailer"): json.dumps(granted).encode(),
    }

    def answers(asked, _):
        return 200, {"connection": "close"}, told[asked.method, asked.path]

    with HostileHttp(answers=answers) as metadata:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{metadata.home}/")
        server, _ = send(driver)
        again, _ = send(driver)
    assert signed_by(server, ID, SECRET, TOKEN)
    assert signed_by(again, ID, SECRET, TOKEN)
    assert [asked.path for asked in metadata.requests].count(f"{ROLE}mailer") == 1


def test_a_key_of_its_own_goes_before_them(driver, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    server, _ = send(driver, account=(ID, SECRET))
    assert signed_by(server, ID, SECRET)


def test_a_machine_without_any_pauses_the_route_and_is_told_what_to_do(driver):
    server, outcome = send(driver)
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert "AWS_ACCESS_KEY_ID" in outcome.text
    assert server.requests == []


def test_what_is_broken_names_the_kind_of_error_alone(driver, tmp_path):
    (tmp_path / "credentials").write_text(f"aws_secret_access_key = {SECRET}\n")
    server, outcome = send(driver)
    assert isinstance(outcome, Deferred)
    assert outcome.fault is Fault.OURS
    assert outcome.text == "AWS credentials failed with ConfigParseError"
    assert server.requests == []


def test_what_was_found_is_kept_for_a_while_and_changes_are_seen_after_that(driver, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    send(driver)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new")
    server, _ = send(driver)
    assert signed_by(server, ID, SECRET)
    monkeypatch.setattr(aws, "KEPT", 0.0)
    aws.forget()
    send(driver)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "newest")
    server, _ = send(driver)
    assert signed_by(server, ID, "newest")


def test_what_another_process_found_is_not_used(driver, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    send(driver)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "new")
    monkeypatch.setattr(aws.os, "getpid", lambda: -1)
    server, _ = send(driver)
    assert signed_by(server, ID, "new")


def test_no_secret_is_logged_told_or_shown(driver, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    echo = say(403, {"message": f"x-amz-security-token:{TOKEN}"})
    _, outcome = send(driver, {"whole": echo})
    request = HttpRequest(url="https://h/", headers={"x-amz-security-token": TOKEN})
    question = Sign(request=request, service="ses", region=REGION, account=(ID, SECRET))
    shown = caplog.text + repr(outcome) + repr(question) + repr(aws.sign(question))
    assert SECRET not in shown
    assert TOKEN not in shown


@pytest.mark.parametrize("path", ["/v2/a", "/eu/v2/a%20b"])
def test_what_is_signed_is_the_host_as_it_is_said(path):
    request = HttpRequest(url=f"https://h:443{path}", headers={"content-type": "a"}, body=b"x")
    question = Sign(request=request, service="ses", region=REGION, account=(ID, SECRET))
    signed = aws.sign(question)
    assert signed.headers["host"] == "h:443"
    assert (signed.url, signed.body, signed.method) == (request.url, b"x", "POST")
