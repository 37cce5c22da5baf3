"""The guards under every change of state."""

import pytest

from flask_outbox.mail.errors import OutboxUnavailable
from flask_outbox.mail.lifecycle import State
from flask_outbox.outbox.database import Outbox
from flask_outbox.outbox.held import Kind, Place
from flask_outbox.outbox.settle import ROWS, hold, settle
from outbox_mail import ADA, BOB, Clock, a_submission, look, put, take


@pytest.fixture
def outbox():
    made = Outbox("sqlite://", clock=Clock())
    yield made
    made.close()


def held(outbox, connection, id_):
    rows = connection.execute(ROWS, {"ids": [id_]}).mappings().all()
    return hold(connection, rows, outbox.now(connection))


@pytest.mark.parametrize("after", [State.QUEUED, State.FAILED, State.SENDING])
def test_nobody_leaves_a_state_by_a_way_that_the_lifecycle_does_not_have(after):
    place = Place(0, ADA, State.ACCEPTED, None, 1, 0, "250", "")
    with pytest.raises(ValueError, match="accepted"):
        place.move(after, None)
    assert place.state is State.ACCEPTED


def test_a_row_that_has_changed_since_it_was_read_is_not_overwritten(outbox):
    id_ = put(outbox)
    with outbox.begin() as connection:
        first = held(outbox, connection, id_)
        second = held(outbox, connection, id_)
        first[0].move(State.QUEUED, State.CANCELLED, Kind.CANCELLED, "cancelled")
        second[0].move(State.QUEUED, State.EXPIRED, Kind.EXPIRED, "expired")
        settle(connection, first)
        with pytest.raises(OutboxUnavailable, match="changed"):
            settle(connection, second)
    assert look(outbox, id_).state is State.CANCELLED


def test_a_row_whose_fence_is_another_now_is_not_overwritten(outbox):
    id_ = put(outbox, a_submission(ADA, BOB))
    (claimed,) = take(outbox)
    with outbox.begin() as connection:
        ours = held(outbox, connection, id_)
        connection.exec_driver_sql("UPDATE outbox_message SET fence = 'another'")
        ours[0].give_back()
        with pytest.raises(OutboxUnavailable, match="changed"):
            settle(connection, ours)
    assert claimed.fence
    assert look(outbox, id_).state is State.SENDING
