"""One full round of the main job on this machine, printed; then the app stays up to be tried.

A local mail server (aiosmtpd) stands in for the relay; the app runs in a process of its own with
the embedded worker. Everything that the round makes is in a temporary folder.
"""

import argparse
import contextlib
import email
import http.client
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from email import policy
from pathlib import Path
from types import FrameType
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

HERE = Path(__file__).parent
PATIENCE = 30.0  # seconds for any one step
ADDRESS = "ada@example.org"


class Mailbox:
    """What the local mail server does with a mail: keep it for whoever waits."""

    def __init__(self, show: bool) -> None:  # noqa: FBT001  one switch, named at the call
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.show = show

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take the mail."""
        content = envelope.content
        assert isinstance(content, bytes)  # noqa: S101  aiosmtpd keeps bytes unless told to decode
        self.arrived.put(content)
        if self.show:
            text = email.message_from_bytes(content, policy=policy.default)
            body = text.get_body(("plain",))
            print(f"\n--- mail for {', '.join(envelope.rcpt_tos)}: {text['Subject']}")
            print(body.get_content() if body else "", flush=True)
        return "250 2.0.0 taken"


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def running_app(smtp_port: int, port: int, instance: Path) -> Iterator[str]:
    """Run the example with its embedded worker; give its address."""
    home = f"http://127.0.0.1:{port}"
    environment = {
        # None of this machine's settings: the round is between this app and this server.
        **{k: v for k, v in os.environ.items() if not k.startswith(("FLASK_", "MAIL_"))},
        "FLASK_SKIP_DOTENV": "1",
        "FLASK_SECRET_KEY": secrets.token_hex(32),
        "SIGNUP_INSTANCE": str(instance),
        "MAIL_SERVER": "127.0.0.1",
        "MAIL_PORT": str(smtp_port),
        "MAIL_DEFAULT_SENDER": "Signup Example <hello@example.com>",
        "MAIL_BASE_URL": home,
    }
    command = [sys.executable, "-m", "flask", "--app", str(HERE / "app.py"), "run"]
    log = (instance / "app.log").open("w+")
    with subprocess.Popen(  # noqa: S603  our own interpreter
        [*command, "--no-reload", "--port", str(port)],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
    ) as app:
        try:
            wait_for(home, app, log.name)
            yield home
        finally:
            app.send_signal(signal.SIGINT)
            try:
                app.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                app.kill()
            log.close()


def wait_for(home: str, app: subprocess.Popen[bytes], log: str) -> None:
    """Wait until the app answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if app.poll() is not None:
            break
        with contextlib.suppress(URLError, OSError, http.client.HTTPException):
            build_opener().open(home, timeout=PATIENCE).close()
            return
        threading.Event().wait(0.05)
    sys.exit(f"the app did not start:\n{Path(log).read_text()}")


def step(done: bool, words: str) -> None:  # noqa: FBT001  the point of it
    """Print one step of the round; stop at the first that failed."""
    print(f"  {'✓' if done else '✗'} {words}", flush=True)
    if not done:
        sys.exit(1)


def fetch(browser: OpenerDirector, address: str, form: dict[str, str] | None = None) -> str:
    """Get a page, or post a form to it, as a browser would."""
    data = None if form is None else urlencode(form).encode()
    with browser.open(address, data, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def use_again(browser: OpenerDirector, link: str) -> int:
    """Post to a used link; give the status."""
    try:
        fetch(browser, link, {})
    except HTTPError as error:
        with error:
            return error.code
    return 200


def one_round(home: str, mailbox: Mailbox) -> None:
    """Sign up, read the mail, open the link, be verified."""
    browser = build_opener(HTTPCookieProcessor())
    began = time.perf_counter()
    page = fetch(browser, f"{home}/signup", {"email": ADDRESS})
    waited = (time.perf_counter() - began) * 1000
    step("mail" in page, f"sign-up posted for {ADDRESS}, answer back in {waited:.0f} ms")

    try:
        content = mailbox.arrived.get(timeout=PATIENCE)
    except queue.Empty:
        step(done=False, words="the mail did not arrive")
        return
    taken = (time.perf_counter() - began) * 1000
    mail = email.message_from_bytes(content, policy=policy.default)
    step(
        mail["To"] == ADDRESS,
        f"mail accepted by the server after {taken:.0f} ms: {mail['Subject']}",
    )

    page = wait_for_words(browser, f"{home}/waiting", "has been sent")
    step("has been sent" in page, "the app says: Your mail has been sent")

    body = mail.get_body(("plain",))
    found = re.search(r"http://\S+", body.get_content() if body else "")
    step(found is not None, "the mail holds a link")
    link = found[0] if found else ""
    step(
        "Yes, this is my address" in fetch(browser, link),
        "link opened: it asks, and changes nothing",
    )
    step("You are verified" in fetch(browser, link, {}), "account verified")
    step(use_again(browser, link) == http.HTTPStatus.GONE, "the same link does not work twice")


def wait_for_words(browser: OpenerDirector, address: str, words: str) -> str:
    """Look at a page until it says these words; the worker records after the server's word."""
    end = time.monotonic() + PATIENCE
    while words not in (page := fetch(browser, address)) and time.monotonic() < end:
        threading.Event().wait(0.05)
    return page


def stop(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the round; stay up unless told to stop after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the round")
    parser.add_argument("--port", type=int, default=0, help="the app's port (default: a free one)")
    once = parser.parse_args().once
    port = parser.parse_args().port or free_port()
    signal.signal(signal.SIGTERM, stop)
    mailbox = Mailbox(show=not once)
    smtp = Controller(mailbox, hostname="127.0.0.1", port=free_port())
    smtp.start()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="signup-") as folder,
            running_app(smtp.port, port, Path(folder)) as home,
        ):
            print(f"mail server on 127.0.0.1:{smtp.port}, app on {home}\n")
            one_round(home, mailbox)
            if not once:
                print(f"\nTry it yourself: {home}   (mails are printed here; Ctrl-C ends it)")
                with contextlib.suppress(KeyboardInterrupt):
                    threading.Event().wait()
    finally:
        smtp.stop()


if __name__ == "__main__":
    main()
