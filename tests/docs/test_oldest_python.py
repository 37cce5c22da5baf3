"""The source keeps to what works on the oldest Python that pyproject.toml allows."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
# Before 3.11.5 a group repeated like this may stop too early (python/cpython issue 106052): what
# is atomic is written (?>(?:…)*), which works on each.
POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+")


def test_no_pattern_repeats_a_group_possessively():
    source = sorted((TOP / "src").rglob("*.py"))
    assert len(source) > 100
    found = [
        f"{each.relative_to(TOP)}: {match}"
        for each in source
        for match in POSSESSIVE_GROUP.findall(each.read_text("utf-8"))
    ]
    assert found == []
