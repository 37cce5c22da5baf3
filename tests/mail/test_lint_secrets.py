"""lint(): keys, cards' numbers and passwords; and what only looks like them."""

import pytest

from flask_outbox.mail.lint import lint
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import seal

PAD = "Your order of two books is on its way to you. " * 2


def findings(**fields):
    plain = {"subject": "s", "recipients": ["a@x.test"], "body": "text", "sender": "s@x.test"}
    return lint(seal(Message(**{**plain, **fields}), now=0).content)


def found(text):
    return [finding.rule for finding in findings(body=text)]


def joined(*pieces):
    """Put a key together that no scanner of repositories shall take for a real one."""
    return "".join(pieces)


KEYS = {
    "AWS": joined("AKIA", "IOSFODNN7", "EXAMPLE"),
    "GitHub's": joined("ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"),
    "GitHub's, fine": joined("github_pat_", "11ABCDEFG0123456789abcdef_x"),
    "GitLab's": joined("glpat-", "abcdefghij0123456789"),
    "Slack's": joined("xoxb-", "123456789012-abcdef"),
    "webhook": joined("https://hooks.slack.com/", "services/T00000000/B00000000/", "X" * 24),
    "Stripe's": joined("sk_live_", "4eC39HqLyjWDarjtT1zdp7dc"),
    "Stripe's, signing": joined("whsec_", "abcdefghijklmnopqrstuvwxyz"),
    "SendGrid's": joined("SG.", "ngeVfQFYQlKU0ufo8x5d1A", ".", "TwL2iGABf9DHoTf-09kqeF8tAmbihYzrn"),
    "Mailgun's": joined(
        "key-",
        "3ax6xnjp29jd6fds4gc373sgvjxteol0".replace("x", "0").translate(
            str.maketrans("jnpdsgvteol", "0123456789a")
        ),
    ),
    "Google's": joined("AIza", "SyDaGmWKa4JsXZ-HjGw7ISLn_3namBGewQe"),
    "Resend's": joined("re_", "123456789", "_", "abcdefghijklmnopqrstuvwx"),
    "access token of Google's": joined("ya29.", "a0AfH6SMBx-", "b" * 40),
    "secret access key of AWS": joined(
        "aws_secret_access_key = ", "wJalrXUtnFEMI/K7MDENG/", "bPxRfiCYEXAMPLEKEY"
    ),
    "secret access key": joined(
        "Secret Access Key:\n", "wJalrXUtnFEMI/K7MDENG/", "bPxRfiCYEXAMPLEKEY"
    ),
    "an API key": joined("API key: ", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"),
    "an API key, quoted": joined('"api_key": "', "4F9A8B7C6D5E4F3A" * 3, '"'),
    "an API key, German": joined("API-Schlüssel = ", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"),
    "an API key, of a table": joined("Your API token\n", "4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c"),
    "an API key, stated": joined("Your API key is ", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"),
    "an API key, announced": joined("Your API key is: ", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"),
    "an API key, stated in German": joined(
        "Ihr API-Schlüssel lautet\n", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"
    ),
    "an API key, remarked": joined(
        "API token (keep it secret): ", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c"
    ),
    "an API key, remarked and stated": joined(
        "API key (new) is '", "4f9a8b7c6d5e4f3a", "2b1c0d9e8f7a6b5c", "'"
    ),
    "secret access key, stated": joined(
        "Secret Access Key is ", "wJalrXUtnFEMI/K7MDENG/", "bPxRfiCYEXAMPLEKEY"
    ),
    "npm": joined("npm_", "abcdefghijklmnopqrstuvwxyz0123456789"),
    "PyPI's": joined("pypi-AgE", "IcHlwaS5vcmc" * 6),
    "AI service": joined("sk-ant-", "api03-" + "a1" * 20),
    "private key": joined("-----BEGIN RSA PRIVATE", " KEY-----\nMIIE"),
    "private key, plain": joined("-----BEGIN PRIVATE", " KEY-----\nMIIE"),
    "private key, PGP": joined("-----BEGIN PGP PRIVATE", " KEY BLOCK-----"),
    "web token": joined(
        "eyJhbGciOiJIUzI1NiJ9", ".", "eyJzdWIiOiIxMjM0NTY3ODkwIn0", ".", "dozjgNryP4J3jVm"
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_is_told_and_not_quoted(kind):
    key = KEYS[kind]
    for fields in ({"body": f"{PAD}\nUse {key}."}, {"html": f"<p>Use {key}</p>", "body": PAD}):
        (finding,) = findings(**fields)
        assert finding.rule == "access-key"
        assert kind.partition(",")[0] in finding.text
        assert "…)" in finding.text
        assert key[8:] not in finding.text
        assert key[4:16] not in finding.text


@pytest.mark.parametrize("verb", ["is", "IS", "ist", "lautet", "est", "es"])
def test_a_verb_states_a_key(verb):
    assert found(f"API key {verb} {'4f9a8b7c' * 4}") == ["access-key"]


def test_a_key_is_told_where_it_stands_in_a_tag_of_its_own():
    page = f"<p>Your API key is <code>{'4f9a8b7c' * 4}</code></p>"
    assert [each.rule for each in findings(html=page)] == ["access-key"]


def test_each_place_is_looked_at():
    assert [each.text[:11] for each in findings(subject=KEYS["AWS"])] == ["The subject"]
    message = Message("s", ["a@x.test"], "text", sender="s@x.test")
    message.attach("key.txt", "text/plain", KEYS["Stripe's"].encode())
    (finding,) = lint(seal(message, now=0).content)
    assert finding.text.startswith("An attachment has")


def test_a_key_in_a_link_is_told_unless_it_is_at_its_place_there():
    assert found(f"https://x.test/?key={KEYS['npm']}") == ["access-key"]
    page = '<a href="https://x.test/?key={}">Your order</a>'
    assert "A link in the HTML" in findings(html=page.format(KEYS["SendGrid's"]))[0].text
    for harmless in (KEYS["AWS"], KEYS["web token"]):
        assert (
            found(f"Reset it: https://x.test/reset/{harmless} or https://x.test/?t={harmless}")
            == []
        )
        assert findings(html=page.format(harmless)) == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA", "TAKIAIOSFODNN7EXAMPLEX", "sk_test_4eC39HqLyjWDarjtT1zdp7dc", "ghp_short",
        "-----BEGIN PUBLIC KEY-----", "-----BEGIN CERTIFICATE-----", "monkey-" + "0" * 32,
        "re_engagement_campaign_of_this_spring", "re_read_abcdefghijklmnopqrstuvwx", "ya29.short",
        "You_are_123456789_abcdefghijklmnopqrstuvwx", "Your secret access key has 40 letters",
        "aws_secret_access_key = " + "x" * 41, "Secret access key: (see the console)",
        "API key: 4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5", "4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
        "API key: 4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c-order", "Your API key ends in 6b5c",
        "SHA-256: 4f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c", "API key id: abcdefabcdefabcdefabcdefabcdef12",
        "API key (SHA-256): " + "4f9a8b7c" * 8, "API key (its ID): " + "4f9a8b7c" * 4,
        "Your API key is safe: " + "4f9a8b7c" * 4, "API key isolation " + "4f9a8b7c" * 4,
        "API key (see order 7)\n\nYour order is " + "4f9a8b7c" * 4, "Your API key is not shown",
        "Your API key has the fingerprint " + "4f9a8b7c" * 4, "API keyis " + "4f9a8b7c" * 4,
        "API key is" + "4f9a8b7c" * 4, "API key (" + "x" * 61 + "): " + "4f9a8b7c" * 4,
        "Your secret access key is " + "x" * 41, "Your secret access key is kept by AWS alone",
        "SG.short.short", "a task-oriented-and-rather-long-but-hyphenated-word-it-is", "eyJ.eyJ.x",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_key_is_not_told(text):
    assert found(text) == []


CARDS = [
    *("4111 1111 1111 1111", "4111-1111-1111-1111", "5555 5555 5555 4444", "2223 0031 2200 3222"),
    *("3782 822463 10005", "6011 1111 1111 1117", "3530 1113 3330 0000", "6212 3456 7890 1232"),
    *("3056 930902 5904", "4111.1111.1111.1111", "3782.822463.10005"),
]


@pytest.mark.parametrize("number", CARDS)
def test_a_cards_number_is_told_by_its_last_digits(number):
    for text in (f"You paid with {number}.", f"Your card: {number.replace(' ', '')}"):
        (finding,) = findings(body=text)
        assert finding.rule == "card-number"
        assert f"(…{number[-4:]})" in finding.text
        assert number[:4] not in finding.text


@pytest.mark.parametrize(
    "text", ["4111111111111111 (Visa)", "Your order, by card: 4111111111111111"]
)
def test_a_word_for_it_before_or_after_makes_it_a_cards_number(text):
    assert found(text) == ["card-number"]


@pytest.mark.parametrize(
    "text",
    [
        "You paid with 4111 1111 1111 1112.",  # wrong last digit
        "You paid with 9111 1111 1111 1110.",  # nobody's
        "Order 4111111111111111",
        "Your order no. 4111 1111 1111 1111",
        "Tracking number: 4111111111111111",
        "4111111111111111",  # nothing says that it is a card's
        "https://x.test/card/4111111111111111",
        "Card id X4111111111111111",
        "Card #4111111111111111",
        "card 41111111111111110000",
        "IBAN of the card: DE89 3704 0044 0532 0130 00",
        "Card hotline +4111111111111111",
        "Your card: **** **** **** 1111",
        "credit 4.222.222.222.222",
        "card 41.1111.1111.1111.11",
        "card 4111.1111.1111.1111.1",
    ],
)
def test_what_only_looks_like_a_cards_number_is_not_told(text):
    assert found(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Your password is: hunter2",
        "Your password: swordfish",
        "Password: swordfish.",
        "Password: swordfish \t",
        "Your new password is \u201cTr0ub4dor\u201d",
        "User: ada, password: hunter2, log in soon",
        "Your password is hunter2 and your name is ada",
        "password=hunter2",
        "pwd: hunter2",
        "Login: ada, PWD = hunter2",
        "Your password:\n\n  swordfish\n\nRegards",
        "PASSWORD: swordFish is what you need",
        "Ihr Passwort lautet: Sommer2026",
        "Votre mot de passe est : soleil2026",
        "Connect to postgres://ada:hunter2@db.example/shop",
        "We created your account. Password: hunter2",
        "We have created an account for you, with the password: hunter2",
        "Password changed. New password: hunter2",
        "Your account was updated! Your password is hunter2",
        "Forgot it? Your password is hunter2",
        "User ada Password hunter2",
        "Password unchanged, or a password: hunter2",
        "Password password: hunter2",
        "Password: swordfish\nRegards",
        "We have updated your account, with the password: hunter2",
        "Das Passwort ist zurückgesetzt auf Sommer2026",
        "The password has been reset to hunter2",
        "Your password has now been changed to \u201chunter2\u201d.",
        "Your password is now set to hunter2",
        "Password updated to: hunter2",
        "We have reset your password to hunter2 and your name to ada",
        "Wir haben Ihr Konto erstellt. Ihr Passwort: Sommer2026",
        "Ihr Passwort wurde auf Sommer2026 zurückgesetzt.",
        "Das Kennwort wurde geändert in Sommer2026",
        "Passwort geändert. Neues Passwort: Sommer2026",
    ],
)
def test_a_password_in_clear_is_told_and_not_quoted(text):
    (finding,) = findings(body=text)
    assert finding.rule == "password"
    for secret in ("hunter2", "swordfish", "swordFish", "Tr0ub", "Sommer", "soleil"):
        assert secret not in finding.text


def test_a_password_in_a_table_or_a_link_is_told():
    row = "<table><tr><td>Password</td><td>hunter2</td></tr></table>"
    assert [each.rule for each in findings(html=row)] == ["password"]
    page = '<a href="https://ada:hunter2@x.test/">Your order</a>'
    assert "password" in [each.rule for each in findings(html=page)]
    assert "hunter2" not in str(findings(html=page))


@pytest.mark.parametrize(("letters", "told"), [(3, False), (4, True), (128, True), (129, False)])
def test_a_password_is_neither_very_short_nor_very_long(letters, told):
    assert ("password" in found(f"Your password: {'p' * letters}")) is told


@pytest.mark.parametrize(
    "text",
    [
        "Reset your password: https://x.test/reset/eyJabc",
        "To set your password:\nhttps://x.test/reset/Abc123",
        "Reset password: Continue",
        "Forgot your password: Click2Reset",
        "Your password: Forgot?",
        "Your password has been changed.",
        "Your account was created. Reset your password: Click2Reset",
        "Your account is there (see shop.example to reset it) with a password: Continue",
        "We created your account. To choose a password: Continue",
        "Your password has been reset to protect your account.",
        "Your password was changed to keep Ada2 out.",
        "Your password is now set to expire in 30 days.",
        "We have reset your password to be safe.",
        "Change your password to something that nobody guesses.",
        "Use your password to log in.",
        "We have set your one-time password to 4f8a29.",
        "Your one-time password was set to 4f8a29.",
        "Password: changed",
        "Password: one-time",
        "Your password\u2014never share it\u2014opens your account.",
        "Password-less/FIDO2 is better, and so is password+2FA, or password +2FA.",
        "Your password was set to {{password1}}",
        "Your password was changed at www.shop24.example, and set to expire2 no more.",
        "Your password was set to shop24.example's own",
        "Address: as before. Password: updated.",
        "Ihr Passwort wurde zurückgesetzt.",
        "Ihr Passwort wurde auf Ihren Wunsch geändert.",
        "Ihr Passwort wurde auf GitHub geändert.",
        "Ihr Konto ist angelegt. Bitte wählen Sie ein Passwort: Weiter",
        "Ihr Konto ist angelegt. Passwort: unverändert",
        "Ihr Konto ist angelegt. Passwort vergessen? Weiter",
        "Passwort: geändert",
        "Ihr Einmal-Passwort wurde auf 4f8a29 gesetzt.",
        "Your password is about to expire.",
        "YOUR PASSWORD IS ABOUT TO EXPIRE.",
        "Your password is case-sensitive.",
        "Your password: choose it well",
        "Password: eight letters or more",
        "The password is 12-16 characters long.",
        "Password: required",
        "Password: Required",
        "Your password:\nhttps://x.test/account",
        "Your password: www.x.test",
        "Password: ********",
        "Password: \N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}\N{BULLET}",
        "Password: {{ password }}",
        "Password: [hidden]",
        "Your one-time password is 482913",
        "Your one-time password: 482913",
        "Your code: 482913",
        "We never ask for your password.",
        "The password must have 8 letters: try Abcdefg1",
        "Name\tPassword\tRole",
        "PWD=/home/ada",
        "pwd: ~/shop",
        "pwd: command not found",
        "Type pwd to see where you are.",
    ],
)
def test_talk_of_passwords_is_not_told(text):
    assert found(text) == []
