"""Debian's Postfix as a relay of the tests' own: private ports, one temporary folder, one pid.

::

    with running() as relay:
        relay.plain      # port: no TLS, takes mail from this machine; AUTH where one wants to
        relay.private    # port: STARTTLS and AUTH before anything else
        relay.implicit   # port: the same, with TLS from the first byte; AUTH LOGIN alone
        relay.inbox()    # what was delivered, message by message
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam
from time import monotonic, sleep

import certificates
from ports import free_port

USER, PASSWORD = "ada", "correct horse"
KNOWN = ("ada@relay.test", "bob@relay.test", "jos\u00e9@relay.test")  # anybody else is unknown
DAEMONS = "/usr/lib/postfix/sbin"
BOUND = 30.0

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = relay.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
smtputf8_enable = yes
message_size_limit = 30000000
smtpd_error_sleep_time = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {certificate}
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = relay.test
cyrus_sasl_config_path = {folder}/etc/sasl
virtual_mailbox_domains = relay.test
virtual_mailbox_base = {folder}
virtual_mailbox_maps = texthash:{folder}/etc/mailboxes
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
"""
LOGGED_IN = """
  -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject
"""
MASTER = """
127.0.0.1:{plain} inet n - n - - smtpd
  -o smtpd_tls_security_level=none -o smtpd_sasl_auth_enable=yes
127.0.0.1:{private} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt {logged_in}
127.0.0.1:{implicit} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes {logged_in}
  -o smtpd_sasl_mechanism_filter=login
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
proxymap  unix - - n - - proxymap
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
virtual   unix - n n - - virtual
anvil     unix - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""
SASL = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb
mech_list: PLAIN LOGIN CRAM-MD5
"""
# name → mode; all but the first belong to Postfix's own user
QUEUE = {"pid": 0o755, "public": 0o710, "maildrop": 0o730} | dict.fromkeys(
    (
        *("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold"),
        *("incoming", "private", "saved", "trace"),
    ),
    0o700,
)


@dataclass(frozen=True)
class Relay:
    """A Postfix that is running."""

    folder: Path
    plain: int
    private: int
    implicit: int

    def log(self) -> str:
        """What it wrote down."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "log").read_text(errors="replace")
        return ""

    def logged(self, pattern: str) -> None:
        """Wait until it has written this down."""
        until = monotonic() + BOUND
        while not re.search(pattern, self.log()):
            assert monotonic() < until, f"no {pattern}\n{self.log()[-4000:]}"
            sleep(0.02)  # another program's file: there is nothing to wait on

    def inbox(self) -> list[bytes]:
        """What has been delivered so far, in no order; line ends are LF."""
        with contextlib.suppress(FileNotFoundError):
            return [path.read_bytes() for path in (self.folder / "inbox" / "new").iterdir()]
        return []

    def delivered(self, text: bytes, count: int = 1) -> list[bytes]:
        """Wait until so many messages with this text have been delivered, and return them."""
        until = monotonic() + BOUND
        while len(found := [mail for mail in self.inbox() if text in mail]) < count:
            assert monotonic() < until, f"{len(found)} of {count} delivered\n{self.log()[-4000:]}"
            sleep(0.02)  # another program's folder: there is nothing to wait on
        return found


@contextlib.contextmanager
def running() -> Iterator[Relay]:
    """Start it, and stop it."""
    folder = Path(tempfile.mkdtemp(prefix="flask-outbox-relay-"))
    try:
        relay = Relay(folder, free_port(), free_port(), free_port())
        _write(relay)
        master = subprocess.Popen(
            [f"{DAEMONS}/master", "-d", "-c", str(folder / "etc")],
            env={**os.environ, "MAIL_CONFIG": str(folder / "etc")},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # it ends its whole process group when it is ended
        )
        try:
            _until_it_answers(relay, master)
            yield relay
        finally:
            master.send_signal(signal.SIGTERM)
            master.wait(BOUND)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(relay: Relay) -> None:
    folder = relay.folder
    folder.chmod(0o755)
    owner = getpwnam("postfix")
    for name in ("etc", "etc/sasl", "queue", "data", "inbox"):
        (folder / name).mkdir()
    for name in ("data", "inbox"):
        os.chown(folder / name, owner.pw_uid, owner.pw_gid)
    for name, mode in QUEUE.items():
        path = folder / "queue" / name
        path.mkdir()
        path.chmod(mode)
        if name != "pid":
            os.chown(path, owner.pw_uid, -1)
    pem = folder / "etc" / "server.pem"
    certificates.certificate("good").private_key_and_cert_chain_pem.write_to_path(str(pem))
    values = {
        "folder": folder,
        "daemons": DAEMONS,
        "certificate": pem,
        "uid": owner.pw_uid,
        "gid": owner.pw_gid,
    }
    (folder / "etc" / "main.cf").write_text(MAIN.format(**values))
    ports = {"plain": relay.plain, "private": relay.private, "implicit": relay.implicit}
    master = MASTER.format(**ports, logged_in=LOGGED_IN.rstrip())
    (folder / "etc" / "master.cf").write_text(master)
    (folder / "etc" / "mailboxes").write_text("".join(f"{name} inbox/\n" for name in KNOWN))
    (folder / "etc" / "sasl" / "smtpd.conf").write_text(SASL.format(**values))
    database = folder / "sasldb"
    subprocess.run(
        ["saslpasswd2", "-p", "-c", "-f", str(database), "-u", "relay.test", USER],
        input=PASSWORD.encode(),
        check=True,
    )
    os.chown(database, owner.pw_uid, owner.pw_gid)


def _until_it_answers(relay: Relay, master: "subprocess.Popen[bytes]") -> None:
    until = monotonic() + BOUND
    while monotonic() < until:
        assert master.poll() is None, f"Postfix did not start\n{relay.log()}"
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", relay.plain), 5) as line,
        ):
            if line.recv(100).startswith(b"220 relay.test"):
                return
        sleep(0.02)  # another program's port: there is nothing to wait on
    raise AssertionError(f"Postfix does not answer\n{relay.log()}")
