"""Amazon SES, beside its documentation: botocore's model of it, and moto's server."""

import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import botocore.session
import pytest
from botocore.validate import ParamValidator
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

from aws_signature import is_signed
from contract.http_mails import ADA, BOB, HEX, plain, rich, sealed
from contract.http_transport_contract import KEY, HttpTransportContract, letter
from flask_outbox.mail.errors import ConfigurationError
from flask_outbox.mail.exchange import Open, Sign, Tls
from flask_outbox.mail.message import Message
from flask_outbox.transports.carries import is_signed_by_us
from flask_outbox.transports.ses import Ses
from flask_outbox.transports.url import transport_from_url
from hostile_http import say

ID, REGION = "AKIDEXAMPLE", "eu-west-1"
ABOUT_US = [
    *("AccountSuspendedException", "SendingPausedException", "LimitExceededException"),
    *("MailFromDomainNotVerifiedException", "TooManyRequestsException", "RequestExpired"),
    *("ThrottlingException", "AccessDeniedException", "ExpiredTokenException"),
    *("IncompleteSignature", "NotAuthorized"),
]
AS_SEALED = "the mail as it is sealed"
TEMPLATE = {"Template": {"TemplateName": "welcome", "TemplateData": '{"name": ""}'}}


def empty(**more):
    return Message("", [ADA], sender="shop@example.com", **more)


def to_several():
    return Message(
        "",
        [("Ada, née Byron", ADA)],
        sender=("Ünal", "shop@example.com"),
        cc=[BOB],
        bcc=[HEX],
        reply_to=["help@example.com"],
        extra_headers={"X-Order": "42"},
        provider=TEMPLATE,
    )


def with_an_attachment():
    message = empty(provider=TEMPLATE)
    message.attach("a.bin", data=b"x")
    return message


class TestSes(HttpTransportContract):
    recorded = Path(__file__).parent / "fixtures" / "ses"
    largest = 40 * 1024 * 1024
    mails: ClassVar = {
        "a template": lambda: sealed(empty(provider=TEMPLATE)),
        "a template to several": lambda: sealed(to_several()),
        "watched": lambda: sealed(plain(track_opens=True, track_clicks=True)),
        "unwatched": lambda: sealed(plain(track_opens=False, track_clicks=False)),
        "a return path": lambda: sealed(plain(), sender="bounces@example.com"),
        "a template and a return path": lambda: sealed(
            empty(provider=TEMPLATE), sender="bounces@example.com"
        ),
        "every option": lambda: sealed(
            plain(
                provider={
                    "ConfigurationSetName": "bulk",
                    "ListManagementOptions": {"ContactListName": "all", "TopicName": "news"},
                    "TenantName": "t-1",
                    "FromEmailAddressIdentityArn": "arn:aws:ses:eu-west-1:1:identity/a",
                    "FeedbackForwardingEmailAddressIdentityArn": "arn:aws:ses:eu-west-1:1:b",
                }
            )
        ),
    }
    unsupported: ClassVar = {
        "besides a template": lambda: sealed(plain(provider=TEMPLATE)),
        "attachments besides a template": lambda: sealed(with_an_attachment()),
        "a Template that is no object": lambda: sealed(empty(provider={"Template": "welcome"})),
        "a tag and metadata of one name, 'order'": lambda: sealed(
            plain(tags=["new", "order"], metadata={"order": "7"})
        ),
        "a tag and metadata of one name, 'outbox_id'": lambda: sealed(plain(tags=["outbox_id"])),
        "mail_options": lambda: sealed(plain(mail_options=["BODY=8BITMIME"])),
        "local part is not ASCII": lambda: sealed(
            Message("hi", ["ünal@example.org"], "hello", sender="shop@example.com")
        ),
        "of tags": lambda: sealed(plain(tags=[str(at) for at in range(25)])),
        "tags that do not match": lambda: sealed(plain(tags=["two words"])),
        "of metadata": lambda: sealed(plain(metadata={str(at): "x" for at in range(26)})),
        "metadata that do not match": lambda: sealed(plain(metadata={"a b": "c"})),
        "metadata whose values do not match": lambda: sealed(plain(metadata={"a": "b c"})),
        "recipients in one message": lambda: sealed(
            plain(), *(f"r{at}@example.org" for at in range(51))
        ),
        "provider['Content']": lambda: sealed(plain(provider={"Content": {}})),
    }

    def at(self, home, **more):
        return Ses(REGION, (ID, KEY), home, configuration_set="shop", **more)

    def with_key(self, key):
        return Ses(REGION, (ID, key))

    def read(self, asked):
        body = asked.json()
        assert is_signed(asked, KEY, f"{ID}/", f"/{REGION}/ses/aws4_request")
        if "Raw" in body["Content"]:
            assert b"Message-ID: <1@example.com>" in b64decode(body["Content"]["Raw"]["Data"])
            body["Content"]["Raw"]["Data"] = AS_SEALED
        return body

    def test_a_repeat_is_the_same_request(self, server, transport):
        for _ in range(2):
            self.carry(transport.send([sealed(rich())]))
        first, second = server.requests
        assert first.body == second.body

    def test_each_request_is_what_amazons_own_model_says(self):
        model = botocore.session.Session().get_service_model("sesv2").operation_model("SendEmail")
        for path, record in self.files("requests"):
            assert (record["method"], record["path"]) == (
                model.http["method"],
                model.http["requestUri"],
            )
            errors = ParamValidator().validate(record["body"], model.input_shape)
            assert not errors.has_errors(), (path, errors.generate_report())

    def test_the_mail_goes_as_it_is_sealed(self, server, transport):
        submission = sealed(rich(), BOB, HEX)
        self.carry(transport.send([submission]))
        body = server.requests[0].json()
        assert b64decode(body["Content"]["Raw"]["Data"]) == submission.content
        assert body["Destination"] == {"ToAddresses": [BOB, HEX]}

    def test_hidden_recipients_of_a_template_do_not_see_one_another(self, server, transport):
        self.carry(transport.send([sealed(empty(provider=TEMPLATE), HEX, BOB)]))
        said = [asked.json()["Destination"]["ToAddresses"] for asked in server.requests]
        assert said == [[HEX], [BOB]]

    @pytest.mark.parametrize("kind", ABOUT_US)
    def test_what_is_about_the_account_pauses_the_route(self, kind):
        answer = say(400, {"message": "no"}, x_amzn_errortype=kind)
        (outcome,) = self.sent({"whole": answer})
        assert letter(outcome) == "O"
        (outcome,) = self.sent({"whole": say(400, {"__type": f"com.amazonaws.ses#{kind}"})})
        assert (letter(outcome), outcome.text) == ("O", f"400 {kind}")

    @pytest.mark.parametrize(
        ("provider", "said", "means"),
        [
            ({}, "Template welcme does not exist.", "O"),
            (TEMPLATE, "Template welcme does not exist.", "R"),
            (TEMPLATE, "", "R"),
            ({"TenantName": "t-1"}, "The tenant does not exist.", "R"),
            ({"ConfigurationSetName": "blk"}, "Configuration set <blk> does not exist.", "R"),
            (TEMPLATE, "Configuration set <shop> does not exist.", "O"),  # the URL's
        ],
    )
    def test_what_is_not_there_is_the_fault_of_who_named_it(self, provider, said, means):
        answer = say(404, {"message": said}, x_amzn_errortype="NotFoundException")
        mail = sealed(empty(provider=provider) if "Template" in provider else plain())
        mail = replace(mail, provider=provider)
        (outcome,) = self.sent({"whole": answer}, mail)
        assert letter(outcome) == means
        assert outcome.text.startswith("404 NotFoundException")
        assert said in outcome.text
        if means == "R":
            assert outcome.text.endswith(f"(see provider=: {', '.join(provider)})")

    def test_where_nothing_is_at_its_address_no_mail_is_to_blame(self):
        (outcome,) = self.sent({"whole": say(404)}, sealed(empty(provider=TEMPLATE)))
        assert letter(outcome) == "O"

    def test_what_was_accepted_stays_so_whatever_else_is_said(self):
        body = {"MessageId": "1", "message": "not verified"}
        for kind in ("RequestExpired", "NotFoundException"):
            answer = say(200, body, x_amzn_errortype=kind)
            (outcome,) = self.sent({"whole": answer}, sealed(empty(provider=TEMPLATE)))
            assert (letter(outcome), outcome.reference) == ("A", "1")

    def test_words_about_a_signature_are_not_told(self):
        said = "The Canonical String should have been 'POST x-amz-security-token:T0KEN'"
        answer = say(403, {"message": said}, x_amzn_errortype="InvalidSignatureException")
        (outcome,) = self.sent({"whole": answer})
        assert outcome.text == "403 InvalidSignatureException is the key of ses right?"

    @pytest.mark.parametrize("kind", ["a b", "a\x1bb", "é", "a1"])
    def test_what_is_no_name_of_a_kind_is_not_told(self, kind):
        (outcome,) = self.sent({"whole": say(400, {"__type": kind})})
        assert outcome.text == "400"

    def test_an_ses_over_a_socket_takes_it(self, driver):
        ses = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        ses.start()
        host, port = ses.get_host_and_port()
        home = f"http://{host}:{port}"
        backend = get_backend("ses")["123456789012"][REGION]
        backend.reset()
        try:
            client = botocore.session.Session().create_client(
                "sesv2",
                region_name=REGION,
                endpoint_url=home,
                aws_access_key_id=ID,
                aws_secret_access_key=KEY,
            )
            transport = Ses(REGION, (ID, KEY), home)
            (refused,) = self.carry(transport.send([sealed(rich(), ADA)]))
            assert letter(refused.receipt[ADA]) == "R"
            client.create_email_identity(EmailIdentity="shop@example.com")
            client.close()
            (report,) = self.carry(transport.send([sealed(rich())]))
            assert set(map(letter, report.receipt.values())) == {"A"}
            (message,) = backend.sent_messages
            assert message.id == report.receipt.reference
            assert set(message.destinations) >= set(sealed(rich()).recipients)
        finally:
            driver.rest()
            ses.stop()


@pytest.mark.parametrize(
    ("region", "home"),
    [
        ("eu-west-1", "https://email.eu-west-1.amazonaws.com"),
        ("us-gov-west-1", "https://email.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "https://email.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_by_itself_it_goes_to_its_region(region, home):
    assert Ses(region).home == home
    assert repr(Ses(region)) == f"<Ses {home}>"


def test_to_knock_by_the_machines_credentials_is_to_find_them_first():
    knock = transport_from_url(f"ses://?region={REGION}").knock()
    asked = next(knock)
    assert isinstance(asked, Sign)
    assert asked.request.url == f"https://email.{REGION}.amazonaws.com/"
    assert isinstance(knock.send(None), Open)


def test_it_is_signed_by_amazon_though_it_goes_as_it_is_sealed():
    transport = transport_from_url(f"ses://?region={REGION}")
    assert transport.carries.raw
    assert not is_signed_by_us(transport.carries)


def test_its_url_names_all_of_it():
    url = (
        f"ses://{ID}:s3cret%2Fkey@?region={REGION}&configuration_set=shop&home=https://h&ca_file=a"
    )
    transport = transport_from_url(url)
    assert isinstance(transport, Ses)
    assert (transport.region, transport.account) == (REGION, (ID, "s3cret/key"))
    assert (transport.configuration_set, transport.home) == ("shop", "https://h")
    assert transport.tls == Tls(ca_file="a")
    assert transport_from_url(f"ses://?region={REGION}").account is None


@pytest.mark.parametrize(
    "url",
    [
        *("ses:", "ses://", "ses://?region=", "ses://?region=europe", "ses://?region=a.b/c-1"),
        *(f"ses://{ID}@?region={REGION}", f"ses://{ID}:@?region={REGION}"),
        *(f"ses://a%20b:s@?region={REGION}", f"ses://:s@?region={REGION}"),
        *(f"ses://host?region={REGION}", f"ses:///path?region={REGION}"),
    ],
)
def test_what_is_no_url_of_it_is_refused(url):
    with pytest.raises(ConfigurationError, match="MAIL_TRANSPORT: "):
        transport_from_url(url)


def test_what_it_takes_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'flask-outbox\[ses\]'"):
        Ses(REGION)
