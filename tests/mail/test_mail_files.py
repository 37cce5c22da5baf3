"""Files to attach: only from where they may be, and never more than was meant (FAULTS B6)."""

import io
import os
import pickle
import re
from email import message_from_bytes
from email.policy import default

import pytest

from flask_outbox.mail.errors import BadHeaderError, MessageError, TooLargeError
from flask_outbox.mail.message import Message
from flask_outbox.mail.mime import Limits, fingerprint, seal

QUOTE = '"'


def mail():
    return Message("s", ["a@x.test"], "b", sender="s@x.test")


def attached(path, **options):
    message = mail()
    message.attach_file(path, **options)
    return message


def found(message, roots):
    content = seal(message, now=0, roots=roots).content
    return next(iter(message_from_bytes(content, policy=default).iter_attachments()))


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "a.pdf").write_bytes(b"%PDF inside")
    (tmp_path / "root" / "deep" / "b.txt").write_bytes(b"deep inside")
    (tmp_path / "secret.txt").write_bytes(b"outside")
    (tmp_path / "root-sibling").mkdir()
    (tmp_path / "root-sibling" / "c.txt").write_bytes(b"outside")
    return tmp_path / "root"


class TestPaths:
    @pytest.mark.parametrize("name", ["a.pdf", "deep/b.txt", "deep/../a.pdf", "./a.pdf"])
    def test_a_file_below_a_root_is_attached(self, root, name):
        part = found(attached(root / name), [str(root)])
        assert part.get_payload(decode=True) == (root / name).read_bytes()
        assert part.get_filename() == os.path.basename(name)  # noqa: PTH119  what is tested

    def test_it_is_read_when_sealed(self, root):
        message = attached(root / "a.pdf")
        (root / "a.pdf").write_bytes(b"newer")
        assert found(message, [str(root)]).get_payload(decode=True) == b"newer"

    def test_the_type_comes_from_its_name(self, root):
        assert found(attached(root / "a.pdf"), [str(root)]).get_content_type() == "application/pdf"

    @pytest.mark.parametrize(
        "name",
        ["../secret.txt", "../root-sibling/c.txt", "deep/../../secret.txt", "/etc/passwd", ".", ""],
    )
    def test_a_path_out_of_the_roots_is_refused(self, root, name):
        with pytest.raises(MessageError, match=r"MAIL_ATTACHMENT_ROOTS|filename has no name"):
            seal(attached(os.path.join(root, name)), now=0, roots=[str(root)])  # noqa: PTH118

    def test_without_roots_no_path_is_attached(self, root):
        with pytest.raises(MessageError, match="MAIL_ATTACHMENT_ROOTS"):
            seal(attached(root / "a.pdf"), now=0)

    def test_a_link_that_leads_out_is_refused(self, root):
        (root / "link").symlink_to(root.parent / "secret.txt")
        (root / "folder").symlink_to(root.parent / "root-sibling")
        for name in ("link", "folder/c.txt"):
            with pytest.raises(MessageError, match="MAIL_ATTACHMENT_ROOTS"):
                seal(attached(root / name), now=0, roots=[str(root)])

    def test_a_link_that_stays_inside_is_followed(self, root):
        (root / "link").symlink_to(root / "deep" / "b.txt")
        assert (
            found(attached(root / "link"), [str(root)]).get_payload(decode=True) == b"deep inside"
        )

    def test_a_root_may_itself_be_a_link(self, root):
        (root.parent / "alias").symlink_to(root)
        part = found(attached(root / "a.pdf"), [str(root.parent / "alias")])
        assert part.get_payload(decode=True) == b"%PDF inside"

    def test_a_file_swapped_for_a_link_in_the_last_moment_is_not_followed(self, root, monkeypatch):
        real = os.path.realpath(root / "a.pdf")
        (root / "a.pdf").unlink()
        (root / "a.pdf").symlink_to(root.parent / "secret.txt")
        resolve = os.path.realpath
        monkeypatch.setattr(
            os.path, "realpath", lambda path: real if str(path).endswith("a.pdf") else resolve(path)
        )
        with pytest.raises(MessageError, match="cannot be read"):
            seal(attached(root / "a.pdf"), now=0, roots=[str(root)])

    def test_a_folder_swapped_for_a_link_in_the_last_moment_is_not_followed(
        self, root, monkeypatch
    ):
        real = os.path.realpath(root / "deep" / "c.txt")
        (root / "deep").rename(root / "gone")
        (root / "deep").symlink_to(root.parent / "root-sibling")
        resolve = os.path.realpath
        monkeypatch.setattr(
            os.path, "realpath", lambda path: real if str(path).endswith("c.txt") else resolve(path)
        )
        with pytest.raises(MessageError, match="cannot be read"):
            seal(attached(root / "deep" / "c.txt"), now=0, roots=[str(root)])

    def test_a_fifo_is_refused_without_waiting_for_its_writer(self, root):
        os.mkfifo(root / "fifo")
        with pytest.raises(MessageError, match="not a regular file"):
            seal(attached(root / "fifo"), now=0, roots=[str(root)])

    @pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/stdin"])
    def test_a_device_is_refused(self, path):
        with pytest.raises(
            MessageError, match=r"regular file|MAIL_ATTACHMENT_ROOTS|cannot be read"
        ):
            seal(attached(path), now=0, roots=["/dev"])

    def test_a_folder_is_refused(self, root):
        with pytest.raises(MessageError, match="not a regular file"):
            seal(attached(root / "deep"), now=0, roots=[str(root)])

    def test_a_path_with_nul_is_refused(self, root):
        with pytest.raises(MessageError, match="NUL"):
            seal(attached(f"{root}/a\0.pdf", filename="a"), now=0, roots=[str(root)])

    def test_a_missing_file_is_said_without_its_path(self, root):
        with pytest.raises(MessageError, match="cannot be read: No such file") as raised:
            seal(attached(root / "n0t-there"), now=0, roots=[str(root)])
        assert "n0t-there" not in str(raised.value)

    def test_a_file_over_the_limit_is_refused_while_it_is_read(self, root):
        (root / "big").write_bytes(b"x" * 300_000)
        with pytest.raises(TooLargeError, match="limit on size"):
            seal(attached(root / "big"), now=0, roots=[str(root)], limits=Limits(size=100_000))

    def test_a_message_with_a_path_can_be_pickled(self, root):
        message = pickle.loads(pickle.dumps(attached(root / "a.pdf")))  # noqa: S301  our own
        assert found(message, [str(root)]).get_payload(decode=True) == b"%PDF inside"

    def test_a_mail_inside_may_come_from_a_file(self, root):
        (root / "m.eml").write_bytes(b"Subject: x\n\ny\n")
        message = attached(root / "m.eml", content_type="message/rfc822")
        assert b"Subject: x\r\n\r\ny\r\n" in seal(message, now=0, roots=[str(root)]).content


class TestOpenFiles:
    def test_an_open_file_is_read_from_where_it_stands_each_time(self):
        file = io.BytesIO(b"skipped, kept")
        file.read(9)
        message = attached(file, filename="a.txt")
        for _ in range(2):
            assert found(message, []).get_payload(decode=True) == b"kept"

    def test_an_uploaded_file_brings_its_name_along(self):
        class Upload:
            filename = "C:\\Users\\x\\ümlaut.pdf"

            def __init__(self):
                self.left = [b"one ", b"two"]

            def read(self, size=-1):
                return self.left.pop(0) if self.left else b""

        part = found(attached(Upload()), [])
        assert part.get_filename() == "ümlaut.pdf"
        assert part.get_payload(decode=True) == b"one two"

    def test_a_file_that_was_closed_is_said(self, root):
        with (root / "a.pdf").open("rb") as file:
            message = attached(file)
        with pytest.raises(MessageError, match="was closed"):
            seal(message, now=0)

    def test_a_file_open_for_text_is_said(self):
        with pytest.raises(MessageError, match="mode 'rb'"):
            seal(attached(io.StringIO("x"), filename="a"), now=0)

    def test_an_open_file_counts_by_its_content(self):
        one, same, other = (attached(io.BytesIO(x), filename="a") for x in (b"1", b"1", b"2"))
        assert fingerprint(one) == fingerprint(same) != fingerprint(other)


class TestFileNames:
    @pytest.mark.parametrize(
        ("given", "written"),
        [
            ("a.pdf", "a.pdf"),
            ("../../etc/passwd", "passwd"),
            ("/etc/passwd", "passwd"),
            ("C:\\x", "x"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("x\u202efdp.exe", "xfdp.exe"),
            ("\u200ex\u2066y\u2069.txt", "xy.txt"),
            (".htaccess", ".htaccess"),
            ("CON", "CON"),
            (' a"b\\"c.txt ', '"c.txt'),
            ("a;b=c.txt", "a;b=c.txt"),
            ("häßlich.txt", "häßlich.txt"),
            ("文" * 100, "文" * 100),
            ("x" * 200, "x" * 200),
            (f"a{QUOTE * 150}b", f"a{QUOTE * 150}b"),
            ("=?utf-8?q?x?=.txt", "=?utf-8?q?x?=.txt"),
        ],
    )
    def test_a_name_is_a_last_component_that_shows_what_it_is(self, given, written):
        message = mail()
        message.attach(given, "application/x-bin", b"x")
        content = seal(message, now=0).content
        part = next(iter(message_from_bytes(content, policy=default).iter_attachments()))
        assert part.get_filename() == written
        assert not part["content-disposition"].defects
        assert max(map(len, content.split(b"\r\n"))) <= 78

    @pytest.mark.parametrize("name", ["", "/", "a/", "..", "../..", ".", " ", "\u202e", "a\\"])
    def test_a_name_with_nothing_in_it_is_refused(self, name):
        message = mail()
        message.attach(name, "application/x-bin", b"x")
        with pytest.raises(MessageError, match=r"^attachments: filename"):
            seal(message, now=0)

    @pytest.mark.parametrize("name", ["a\0.pdf", "a\r\nb", "a\nb", "a\x85b", "a\ud800"])
    def test_a_name_with_a_control_character_is_refused(self, name):
        message = mail()
        message.attach(name, "application/x-bin", b"x")
        with pytest.raises(BadHeaderError, match=r"^attachments: filename"):
            seal(message, now=0)

    def test_a_name_that_is_not_ascii_is_written_as_flask_mail_does(self):
        message = mail()
        message.attach("unicöde ←→ ✓.txt", "text/plain", b"x")
        content = re.sub(rb"\r\n ", b" ", seal(message, now=0).content).decode()
        encoded = "unic%C3%B6de%20%E2%86%90%E2%86%92%20%E2%9C%93.txt"
        assert f"Content-Disposition: attachment; filename*=UTF8''{encoded}" in content

    def test_names_become_ascii_where_asked_for(self):
        message = mail()
        message.attach("unicöde  ←.→ ✓.txt", "text/plain", b"x")
        content = seal(message, now=0, ascii_attachments=True).content
        assert b'filename="unicode . .txt"' in content
