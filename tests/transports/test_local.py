"""Ways out that end on this machine."""

import io
import mailbox
import os
import stat
import sys

import pytest

from contract.transport_contract import CONTENT, TransportContract, submission
from flask_outbox.mail.outcome import Accepted, Deferred, Fault
from flask_outbox.transports.local import Console, Folder, Memory, Null


class TestNull(TransportContract):
    @pytest.fixture
    def transport(self):
        return Null()


class TestMemory(TransportContract):
    @pytest.fixture
    def transport(self):
        return Memory()

    def test_what_was_sent_is_kept_in_order(self, transport):
        sent = [submission(1), submission(2)]
        list(transport.send(sent))
        assert transport.sent == sent


class TestConsole(TransportContract):
    @pytest.fixture
    def transport(self):
        return Console(lambda _: None)

    @pytest.fixture
    def broken(self):
        closed = io.StringIO()
        closed.close()
        return Console(closed.write)

    def test_it_prints_what_a_person_wants_to_see(self, capsys):
        list(Console().send([submission(1, "ada@example.org", "hidden@example.org")]))
        printed = capsys.readouterr().out
        for part in ("<shop@example.com> to ada@example.org, hidden@example.org", "Subject: hi"):
            assert part in printed
        assert "\n.hello\n" in printed

    def test_a_terminal_that_lacks_a_letter_is_no_reason_to_fail(self, monkeypatch):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        list(Console().send([submission(1, "jürgen@example.org")]))
        assert b"j\\xfcrgen@example.org" in raw.getvalue()


class TestFolder(TransportContract):
    @pytest.fixture
    def transport(self, tmp_path):
        return Folder(tmp_path / "out")

    @pytest.fixture
    def broken(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        return Folder(tmp_path / "file")

    def test_a_file_holds_the_sealed_bytes_and_is_its_owners_alone(self, transport, tmp_path):
        (report,) = transport.send([submission(1)])
        (file,) = (tmp_path / "out").iterdir()
        assert file.read_bytes() == CONTENT
        assert file.name == f"{report.receipt.reference}.eml"
        assert file.name.startswith("20231114T221320-1_example.com-")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_the_same_message_twice_is_two_files(self, transport, tmp_path):
        list(transport.send([submission(1), submission(1)]))
        assert len(list((tmp_path / "out").iterdir())) == 2

    def test_a_message_id_never_leads_out_of_the_folder(self, tmp_path):
        for name in ("../../etc/passwd", "/abs", "..", ".hidden", "a\0b", "", "x" * 300):
            sent = submission(1)
            object.__setattr__(sent, "message_id", name)
            (report,) = Folder(tmp_path / "out").send([sent])
            assert isinstance(report.receipt["r1@example.org"], Accepted)
        names = [file.name for file in (tmp_path / "out").iterdir()]
        assert len(names) == 7
        assert [file.name for file in tmp_path.iterdir()] == ["out"]

    def test_what_cannot_be_written_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        (report,) = Folder(tmp_path).send([submission(1)])
        (outcome,) = report.receipt.values()
        assert isinstance(outcome, Deferred)
        assert outcome.fault is Fault.OURS
        assert "No space left" in outcome.text
        assert list(tmp_path.iterdir()) == []


class TestMaildir(TestFolder):
    @pytest.fixture
    def transport(self, tmp_path):
        return Folder(tmp_path / "out", maildir=True)

    def test_a_file_holds_the_sealed_bytes_and_is_its_owners_alone(self, transport, tmp_path):
        list(transport.send([submission(1, "ada@example.org", "bob@example.org")]))
        box = mailbox.Maildir(tmp_path / "out", create=False)
        (message,) = box
        assert message["Return-Path"] == "<shop@example.com>"
        assert message.get_all("Delivered-To") == ["ada@example.org", "bob@example.org"]
        assert message.get_payload() == ".hello\n"
        assert not list((tmp_path / "out" / "tmp").iterdir())
        (file,) = (tmp_path / "out" / "new").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_the_same_message_twice_is_two_files(self, transport, tmp_path):
        list(transport.send([submission(1), submission(1)]))
        assert len(list((tmp_path / "out" / "new").iterdir())) == 2

    def test_it_has_a_name_of_its_own(self, transport):
        assert transport.name == "maildir"
