"""A web process of the shop that stops where a test wants to kill it.

Run with a database, an instance folder and what to do; says so on its output, and waits::

    python shop_process.py URL FOLDER write     # INSERT, no COMMIT: says "written"
    python shop_process.py URL FOLDER commit    # COMMIT, no response: says the id
"""

import sys
from pathlib import Path

from shop import a_shop, note


def main() -> None:
    """Do it."""
    place, instance, what = sys.argv[1:]
    shop = a_shop(place, Path(instance), MAIL_WORKER="process")

    @shop.app.post("/orders")
    def order() -> str:
        shop.order()
        shop.db.session.flush()
        row = shop.mail.send_later(note(), key="order-7")
        if what == "commit":
            shop.db.session.commit()
        print(row, flush=True)  # noqa: T201  the test waits for it
        sys.stdin.read()
        return row

    shop.app.test_client().post("/orders")


if __name__ == "__main__":
    main()
