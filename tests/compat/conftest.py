from app_fixtures import app, live, mail, server

__all__ = ["app", "live", "mail", "server"]
