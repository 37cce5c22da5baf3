"""Every Python block of the documentation runs: page by page, in order, in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PAGES = sorted([TOP / "README.md", *(TOP / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(page: Path) -> str:
    """Give the page's blocks, each on the lines that it has on the page."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for each in BLOCK.finditer(text):
        first = text.count("\n", 0, each.start(1))
        block = each[1].splitlines()
        lines[first : first + len(block)] = block
    return "\n".join(lines).rstrip()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if program(page)],
    ids=lambda page: str(page.relative_to(TOP)),
)
def test_the_examples_of_this_page_run(page, tmp_path):
    script = tmp_path / f"{page.stem}_page.py"
    script.write_text(program(page), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
