"""The architecture's page is the law: each file stands in its tree."""

from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = TOP / "src" / "flask_outbox"
FILES = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.name not in {"__init__.py", "version.py"} and "migrations" not in path.parts
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_tree_in_the_architecture_names_this_file(path):
    assert path.name in PAGE
