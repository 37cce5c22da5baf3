"""The page on faults names tests that there are."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "explanation" / "faults.md").read_text()


def test_each_test_that_it_names_is_there():
    named = re.findall(r"`(tests/[^`]+)`", PAGE)
    assert len(named) > 10
    assert [each for each in named if not (TOP / each).is_file()] == []


def test_each_file_of_faults_is_named():
    tests = (TOP / "tests" / "faults").glob("test_*.py")
    assert [each.name for each in tests if f"tests/faults/{each.name}" not in PAGE] == []
