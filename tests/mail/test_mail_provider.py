"""What a provider is told in its own words: JSON, of a size and a depth, and part of the mail."""

import math
from collections import UserDict

import pytest

from flask_outbox.mail.errors import MessageError, TooLargeError
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import fingerprint, seal


def mail(**fields):
    return Message("s", ["a@x.test"], "b", sender="s@x.test", **fields)


def test_what_is_json_is_kept_as_it_is():
    given = {"a": [1, -1.5, "ü", None, True, {"b": ()}], "": {}}
    kept = seal(mail(provider=given), now=0).provider
    assert kept == {"a": [1, -1.5, "ü", None, True, {"b": []}], "": {}}
    given["a"].append(2)
    assert len(kept["a"]) == 6


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (b"x", r"provider\['k'\] must be a value of JSON, not bytes"),
        ({1, 2}, "not set"),
        (object(), "not object"),
        (math.nan, "not float"),
        (math.inf, "not float"),
        ({1: 2}, "names must be str, not int"),
        ([{"x": b""}], r"provider\['k'\]\[0\]\['x'\]"),
        (UserDict(), "not UserDict"),
    ],
)
def test_what_is_no_json_is_refused_by_its_place(value, where):
    with pytest.raises(MessageError, match=where):
        seal(mail(provider={"k": value}), now=0)


def test_what_is_too_deep_or_goes_round_is_refused():
    goes_round = {}
    goes_round["k"] = goes_round
    with pytest.raises(MessageError, match="levels deep"):
        seal(mail(provider=goes_round), now=0)


def test_what_is_too_large_is_refused():
    for provider in ({"k": "x" * 110_000}, {"k": [{"v": "x" * 60_000}, "y" * 60_000]}):
        with pytest.raises(TooLargeError, match="provider"):
            seal(mail(provider=provider), now=0)
    seal(mail(provider={"k": [{"v": "x"}] * 500}), now=0)


@pytest.mark.parametrize("field", ["track_opens", "track_clicks"])
def test_whether_to_watch_is_yes_no_or_unsaid(field):
    for said in (None, True, False):
        assert getattr(seal(mail(**{field: said}), now=0), field) is said
    with pytest.raises(MessageError, match=field):
        seal(mail(**{field: "yes"}), now=0)


def test_two_mails_that_differ_in_it_are_two():
    marks = {
        fingerprint(mail(**each))
        for each in (
            {},
            {"provider": {"k": 1}},
            {"provider": {"k": [1]}},
            {"track_opens": False},
            {"track_opens": True},
            {"track_clicks": True},
        )
    }
    assert len(marks) == 6
