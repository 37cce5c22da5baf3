"""The shop whose processes web_kills.py kills; it finds what it needs in the environment::

KILLED_SHOP='{"place": "sqlite:////tmp/x/shop.sqlite3", "instance": "/tmp/x", "mail": {}}'

``"careless": true``: it breaks the promise.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from flask import Flask

from faults_worker import hurry
from shop import Shop, a_shop, note


def shop_of(given: dict[str, Any]) -> Shop:
    """Make it, with a view that takes an order and confirms it, once however often it is asked."""
    shop = a_shop(given["place"], Path(given["instance"]), **given["mail"])

    @shop.app.post("/order/<name>")
    def order(name: str) -> str:
        # First, as SQLite lets nobody write upon what was read before another wrote.
        shop.mail.send_later(note(recipients=[f"{name}@example.org"]), key=name)
        if shop.db.session.query(shop.Order).filter_by(name=name).first() is None:
            shop.order(name)
            if given.get("careless"):  # the mail after the commit, as without db=
                shop.db.session.rollback()
                shop.order(name)
                shop.db.session.commit()
                time.sleep(0.05)  # so that of the kills some come in between
                shop.mail.send_later(note(recipients=[f"{name}@example.org"]), key=name)
        shop.db.session.commit()
        return name

    return shop


def create_app() -> Flask:
    """Make it in a web server."""
    hurry()
    return shop_of(json.loads(os.environ["KILLED_SHOP"])).app
