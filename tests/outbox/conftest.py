from database_fixtures import mariadb, postgresql

__all__ = ["mariadb", "postgresql"]
