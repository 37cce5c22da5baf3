"""Nothing that a mail names is fetched, while it is composed, sent, sent later or looked through.

Who could have us fetch `http://169.254.169.254/` would read what only this machine may.
"""

import subprocess
import sys

HOSTS = (
    "127.0.0.1",
    "2130706433",
    "0x7f.1",
    "017700000001",
    "127.1",
    "0",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "169.254.169.254",
    "100.64.0.1",
    "good.example@127.0.0.1",
    "pictures.example",
)

PROGRAM = """
import sys

LOOKS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto",
         "urllib.Request"}
asked = []

def hear(event, arguments):
    if event in LOOKS:
        asked.append((event, arguments[-1]))

import tempfile
from pathlib import Path
from flask import Flask
from flask_outbox import Mail, Message, MessageError

sys.addaudithook(hear)
app = Flask("shop", instance_path=tempfile.mkdtemp())
app.config.update(MAIL_TRANSPORT="memory:", MAIL_DEFAULT_SENDER="shop@example.com",
                  MAIL_WORKER="process", MAIL_ATTACHMENT_ROOTS=[tempfile.gettempdir()])
mail = Mail(app)

def a_mail(url):
    html = (f'<html><head><link rel="stylesheet" href="{url}"><style>@import url({url});'
            f'p {{ background: url("{url}") }}</style><base href="{url}"></head>'
            f'<body background="{url}"><img src="{url}" alt="a"><a href="{url}">{url}</a>'
            f'<iframe src="{url}"></iframe><object data="{url}"></object></body></html>')
    return Message("hello", recipients=["ada@example.org"], html=html,
                   extra_headers={"List-Unsubscribe": f"<{url}>"})

with app.app_context():
    for host in sys.argv[1:]:
        for url in (f"http://{host}/a.png", f"https://{host}/a.png", f"//{host}/a.png"):
            message = a_mail(url)
            mail.send(message)
            mail.send_later(message)
            mail.lint(message, spam=False)
            message.attach_file(url)
            try:
                mail.send(message)
            except MessageError:
                pass
            else:
                sys.exit(f"{url} was attached")
    mail.drain()
    assert not asked, asked
    import socket
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError:
        pass
    assert asked, "it would not have been heard"
print("nothing was asked for")
"""


def test_no_address_in_a_mail_is_looked_up_or_connected_to():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *HOSTS],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.stdout, ran.returncode) == ("nothing was asked for\n", 0), ran.stderr
