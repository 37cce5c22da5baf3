"""The doctor's look at the app's migrations: whether they leave our tables alone."""

import ast
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, cast

from flask_outbox.app.joined import BINDS, URI
from flask_outbox.app.patient import Patient
from flask_outbox.mail.diagnosis import Diagnosis, Grade

WORD = "include_object"
OURS = "flask_outbox"  # where ours is imported from
BESIDE = "The outbox's tables stand beside the app's"
FIX = (
    "Give Migrate(app, db, include_object=flask_outbox.include_object), or the same to"
    " context.configure() in env.py. A function of the app's own has to ask ours, too."
)


class _Told(Enum):
    """What `flask db migrate` is told of our tables."""

    NOTHING = "nothing tells `flask db migrate` that they are not the app's to drop."
    MAYBE = "the app's own include_object may let `flask db migrate` drop them."
    DROP = "the app's own include_object lets `flask db migrate` drop them."
    SPARE = ""


def migrations(patient: Patient) -> Iterator[Diagnosis]:
    """See that the app's own migrations leave our tables alone."""
    from flask_outbox.outbox.examine import is_beside  # noqa: PLC0415  brings SQLAlchemy

    runtime = patient.runtime
    if runtime.joined is not None:
        text = "The outbox's tables are among the app's: its migrations know them."
        yield Diagnosis("migrations", Grade.OK, text)
    elif not any(is_beside(runtime.outbox, url) for url in _urls(patient)):
        yield Diagnosis("migrations", Grade.SKIPPED, "No app's tables stand beside the outbox's.")
    else:
        yield _of_app(patient)


def _urls(patient: Patient) -> list[Any]:
    """List where the app's tables are: as Flask-SQLAlchemy came to it, or else as configured."""
    app = patient.runtime.app
    engines = getattr(app.extensions.get("sqlalchemy"), "engines", None)
    if engines is not None:
        return [engine.url for engine in engines.values()]
    config = cast("Mapping[str, Any]", app.config)
    binds: Mapping[str, Any] = config.get(BINDS) or {}
    return [url for url in (config.get(URI), *binds.values()) if isinstance(url, str)]


def _of_app(patient: Patient) -> Diagnosis:
    """Look at what Flask-Migrate was given, and else in env.py."""
    migrate = patient.runtime.app.extensions.get("migrate")
    # As Flask-Migrate has it: below the folder that `flask` is run in, not that of the app.
    env = Path(getattr(migrate, "directory", "migrations"), "env.py")
    told = _by_migrate(getattr(migrate, "configure_args", {}).get(WORD))
    if env.exists():
        in_env = _in_env(env)
        told = told if in_env is _Told.NOTHING else in_env
    elif told is _Told.NOTHING:
        return _without(env, migrate)
    if told is _Told.SPARE:
        return Diagnosis("migrations", Grade.OK, "The app's migrations leave our tables alone.")
    grade = Grade.WARNING if told is _Told.MAYBE else Grade.ERROR
    return Diagnosis("migrations", grade, f"{BESIDE}, and {told.value}", FIX)


def _without(env: Path, migrate: object) -> Diagnosis:
    if migrate is None:
        text = f"The app has no Flask-Migrate, and there is no {env}."
        return Diagnosis("migrations", Grade.SKIPPED, text)
    text = f"{BESIDE}, and there is no {env} here to say that they are not the app's to drop."
    return Diagnosis("migrations", Grade.WARNING, text, f"Look from where `flask db` is run. {FIX}")


def _by_migrate(include: Any) -> _Told:
    """Ask what was given to Migrate(), as Alembic would."""
    from flask_outbox.outbox.examine import is_spared_by  # noqa: PLC0415  brings SQLAlchemy

    if include is None:
        return _Told.NOTHING
    try:
        return _Told.SPARE if is_spared_by(include) else _Told.DROP
    except Exception:  # noqa: BLE001  it is the app's, and may need what is not here
        return _Told.MAYBE


def _in_env(env: Path) -> _Told:
    """Read what is passed on there by its name; a comment, or an import alone, is not.

    Only what is ours, or asks ours, is known to spare our tables.
    """
    try:
        nodes = list(ast.walk(ast.parse(env.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return _Told.NOTHING
    passed = [value for node in nodes for value in _passed(node) if not _is_none(value)]
    if not passed:
        return _Told.NOTHING
    ours = _names_of_ours(nodes)
    return _Told.SPARE if all(_asks(value, ours, nodes) for value in passed) else _Told.MAYBE


def _passed(node: ast.AST) -> Iterator[ast.expr]:
    """Give what stands under that name in an argument, a dict, or an assignment to a key."""
    match node:
        case ast.keyword(arg=name, value=value) if name == WORD:
            yield value
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            yield from (value for key, value in pairs if _is_word(key))
        case ast.Assign(targets=[ast.Subscript(slice=key)], value=value) if _is_word(key):
            yield value
        case ast.Call(func=ast.Attribute(attr="setdefault"), args=[key, value]) if _is_word(key):
            yield value
        case _:
            pass


def _is_word(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value == WORD


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _names_of_ours(nodes: list[ast.AST]) -> set[str]:
    """List what ours is called in a file, as Python writes it."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == OURS:
            names |= {each.asname or each.name for each in node.names if each.name == WORD}
        elif isinstance(node, ast.Import):
            modules = {each.asname or each.name for each in node.names if each.name == OURS}
            names |= {f"{module}.{WORD}" for module in modules}
    return names


def _functions(nodes: list[ast.AST]) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def _asks(value: ast.expr, ours: set[str], nodes: list[ast.AST]) -> bool:
    """Tell whether it is ours, or a function of the file in which ours is named."""
    held: ast.AST = value
    if isinstance(value, ast.Name):
        held = _functions(nodes).get(value.id, value)
    names = (each for each in ast.walk(held) if isinstance(each, ast.Name | ast.Attribute))
    return any(ast.unparse(each) in ours for each in names)
