"""A small app with accounts: sign up, get a link by mail, open it, be verified.

Run it with ``make demo`` (which brings a mail server of its own), or with your own server's
settings in ``.env``::

    flask --app examples/signup/app.py run
"""

import hashlib
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dotenv import load_dotenv
from flask import (
    Blueprint,
    Flask,
    current_app,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_outbox import Mail, Message, MessageError, OutboxError
from flask_outbox.mail.address import parse_address

LINK_LIFETIME = timedelta(hours=24)

# What the person who signed up is told, by the state of the mail.
IN_PLAIN_WORDS = {
    "queued": "Your mail is on its way.",
    "sending": "Your mail is on its way.",
    "accepted": "Your mail has been sent. Please look into your inbox.",
    "unknown": "Your mail may have been sent. Please look into your inbox, or ask for another.",
    None: "Your mail could not be sent. Your account is safe: please ask for another mail.",
}


class Base(DeclarativeBase):
    """The app's tables."""


db = SQLAlchemy(model_class=Base)
mail = Mail()
pages = Blueprint("pages", __name__)


class User(Base):
    """Somebody who signed up. Of the link's token only the hash is kept."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    verified_at: Mapped[datetime | None]
    token_hash: Mapped[str | None] = mapped_column(unique=True)
    token_expires: Mapped[datetime | None]
    mail_id: Mapped[str | None]


def create_app() -> Flask:
    """Make the app; every setting comes from the environment or ``.env``."""
    if not os.environ.get("FLASK_SKIP_DOTENV"):
        load_dotenv(Path(__file__).with_name(".env"))
    app = Flask(__name__, instance_path=os.environ.get("SIGNUP_INSTANCE"))
    app.config.from_prefixed_env()  # FLASK_SECRET_KEY → SECRET_KEY
    app.config.from_mapping({k: v for k, v in os.environ.items() if k.startswith("MAIL_")})
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", "sqlite:///signup.sqlite3")
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    if not app.config.get("SECRET_KEY"):
        raise SystemExit("Set FLASK_SECRET_KEY; .env.example says how to make one.")
    if not app.config.get("MAIL_BASE_URL"):
        raise SystemExit("Set MAIL_BASE_URL: every link in a mail begins with it.")
    db.init_app(app)
    mail.init_app(app)
    app.register_blueprint(pages)
    with app.app_context():
        db.create_all()
    return app


def now() -> datetime:
    """Give the time as the database keeps it: UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)


def hash_of(token: str) -> str:
    """Give what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def write_to(user: User) -> None:
    """Put a mail into the outbox: with a fresh link, or, where one was used, that there is none.

    A mail problem never loses the account.
    """
    token = secrets.token_urlsafe(32)
    user.mail_id = None
    if user.verified_at is None:
        user.token_hash = hash_of(token)
        user.token_expires = now() + LINK_LIFETIME
    db.session.commit()
    try:
        user.mail_id = mail.send_later(
            letter(user, token), priority="urgent", expires=LINK_LIFETIME
        )
    except OutboxError:
        current_app.logger.exception("the mail for user %s could not be queued", user.id)
    db.session.commit()


def letter(user: User, token: str) -> Message:
    """Compose the mail."""
    if user.verified_at is not None:
        home = current_app.config["MAIL_BASE_URL"]
        return Message(
            "You have an account already",
            [user.email],
            f"Somebody signed up with your address at {home}. You have an account there: log in.\n",
        )
    link = current_app.config["MAIL_BASE_URL"] + url_for("pages.verify", token=token)
    return Message(
        "Please confirm your address",
        [user.email],
        render_template("verify.txt", link=link),
        render_template("verify_mail.html", link=link),
        sensitive=True,
    )


def user_with(email: str) -> User:
    """Find or make the account; of two sign-ups at once, one makes it."""
    wanted = db.select(User).filter_by(email=email)
    if (user := db.session.scalar(wanted)) is not None:
        return user
    db.session.add(User(email=email))
    try:
        db.session.commit()
    except IntegrityError:
        db.session.rollback()
    return db.session.scalars(wanted).one()


@pages.get("/")
def index() -> ResponseReturnValue:
    """Show the form."""
    return render_template("index.html")


@pages.post("/signup")
def sign_up() -> ResponseReturnValue:
    """Make the account, then the mail; the answer is the same whoever has signed up before."""
    email = request.form.get("email", "").strip()
    try:
        email = parse_address(email, "email").addr
    except MessageError:
        return render_template("index.html", email=email, error="That is not an address."), 400
    write_to(user_with(email))
    session["signed_up"] = email
    return redirect(url_for("pages.waiting"))


@pages.get("/waiting")
def waiting() -> ResponseReturnValue:
    """Tell in plain words what became of the mail; not whether anybody has an account."""
    email = session.get("signed_up")
    if email is None:
        return redirect(url_for("pages.index"))
    user = db.session.scalar(db.select(User).filter_by(email=email))
    words = IN_PLAIN_WORDS.get(state_of(user.mail_id if user else None), IN_PLAIN_WORDS[None])
    return render_template("waiting.html", email=email, words=words)


def state_of(mail_id: str | None) -> str | None:
    """Ask the outbox; an outbox that cannot be read is no reason for an error page."""
    try:
        status = mail.status(mail_id) if mail_id else None
    except OutboxError:
        current_app.logger.exception("the outbox could not be read")
        return "queued"
    return status.state.value if status else None


@pages.post("/again")
def again() -> ResponseReturnValue:
    """Send another mail; the link in the one before stops working."""
    user = db.session.scalar(db.select(User).filter_by(email=session.get("signed_up")))
    if user is not None:
        write_to(user)
    return redirect(url_for("pages.waiting"))


@pages.get("/verify/<token>")
def verify(token: str) -> ResponseReturnValue:
    """Show a button: mail scanners open links, and opening must change nothing."""
    return render_template("verify.html", token=token), 200, {"Referrer-Policy": "no-referrer"}


@pages.post("/verify/<token>")
def verified(token: str) -> ResponseReturnValue:
    """Use the link up; of two at once, the database lets one through."""
    used = db.session.execute(
        db.update(User)
        .where(User.token_hash == hash_of(token), User.token_expires > now())
        .values(verified_at=now(), token_hash=None)
    )
    db.session.commit()
    if used.rowcount != 1:
        return render_template("used.html"), 410
    return render_template("verified.html")
