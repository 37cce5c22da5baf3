"""Break each provider's file in one place after another, and see its tests notice.

    python tools/mutants.py             every provider, and what all of them share
    python tools/mutants.py resend      one file of transports/

A mutant lacks one entry of a dict, one argument given by name, one member of a set or a list, one
``yield`` of a header or a field, or one ``raise``. It is made of a copy, and the file's own tests
run against that, those first that notice most. Each mutant is printed with what became of it; the
exit status is 1 if one was not caught.
"""

import ast
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
FOLDER = Path("src", "flask_outbox", "transports")
TESTS = Path("tests", "transports")
SHARED = ("base", "carries", "http_verdict")
AT_ONCE = 2
PLAIN = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist"]
# Each run is a fork of a process that has imported what takes the tests seconds to import.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "sqlalchemy", "flask", "trustme", "h11", "botocore.session", "moto.server"]
)
OWN = "own_provider"  # what is for all, and none of ours needs
QUICK = "resend"  # whose tests notice most of what is broken for all
FIRST = "(documentation or by_name or account) and blocking"
ALL = "not asyncio"  # a transport cannot tell by which driver it is carried


@dataclass(frozen=True)
class Mutant:
    """A file with one thing left out."""

    file: str
    line: int
    what: str
    source: str


def providers() -> list[str]:
    """List the files of providers: those that make an HttpTransport."""
    files = sorted((TOP / FOLDER).glob("*.py"))
    return [file.stem for file in files if "(HttpTransport):" in file.read_text(encoding="utf-8")]


def mutants(file: str) -> Iterator[Mutant]:
    """Make all of a file."""
    source = (TOP / FOLDER / f"{file}.py").read_text(encoding="utf-8")
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    tree.body = [each for each in tree.body if "__all__" not in ast.unparse(each).partition("=")[0]]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []  # @dataclass(frozen=True) is for the reader
    for first, last, instead in sorted(_places(tree)):
        begin = starts[first[0] - 1] + first[1]
        end = starts[last[0] - 1] + last[1]
        raw = source.encode()
        what = " ".join(raw[begin:end].decode().split())
        if not instead:  # an entry goes with its comma
            rest = raw[end:].lstrip()
            if rest.startswith(b","):
                end = len(raw) - len(rest) + 1
        broken = (raw[:begin] + instead + raw[end:]).decode()
        compile(broken, file, "exec")
        yield Mutant(file, first[0], what, broken)


Place = tuple[tuple[int, int], tuple[int, int], bytes]


def _places(tree: ast.Module) -> Iterator[Place]:
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if key is None:  # **more
                        yield (value.lineno, value.col_offset - 2), _end(value), b""
                    else:
                        yield _start(key), _end(value), b""
            case ast.Call(keywords=keywords):
                for each in keywords:
                    yield _start(each), _end(each), b""
            case ast.Set(elts=members) | ast.List(elts=members) if len(members) > 1:
                for each in members:
                    yield _start(each), _end(each), b""
            case ast.Raise() | ast.Expr(value=ast.Yield() | ast.YieldFrom()):
                yield _start(node), _end(node), b"pass"
            case _:
                pass


def _start(node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
    return node.lineno, node.col_offset


def _end(node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def stages(file: str) -> list[list[str]]:
    """Say which tests are for a file: the quickest first, and all at last."""
    if file in SHARED:
        others = [_of(each) for each in providers() if each != QUICK]
        everywhere = [_of(OWN), _of(QUICK), *others, "-k", f"{FIRST} or {OWN}"]
        return [everywhere, _tests(QUICK, ALL), [*others, "-k", ALL]]
    return [_tests(file, FIRST), _tests(file, ALL)]


def _tests(name: str, which: str) -> list[str]:
    return [_of(name), "-k", which]


def _of(name: str) -> str:
    return str(TESTS / f"test_{name}.py")


def is_caught(tests: list[list[str]], mutant: Mutant) -> bool:
    """Run the tests against a copy that has the mutant in it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TOP / "src", Path(folder, "src"))
        broken = Path(folder, FOLDER, f"{mutant.file}.py")
        broken.write_text(mutant.source, encoding="utf-8")
        return any(_fails(folder, each) for each in tests)


def _fails(folder: str, arguments: list[str]) -> bool:
    child = FORKS.Process(target=_test, args=(folder, [*PLAIN, *arguments]))
    child.start()
    child.join()
    if child.exitcode in {3, 4, 5}:  # pytest itself failed, or found no test
        raise SystemExit(f"pytest {' '.join(arguments)} ended with {child.exitcode}")
    return child.exitcode != 0


def _test(folder: str, arguments: list[str]) -> None:
    """Run pytest in a fork that has its libraries, and nothing of ours yet."""
    os.chdir(TOP)
    os.environ["PYTHONPATH"] = os.path.join(folder, "src")  # noqa: PTH118  for what it starts
    sys.path.insert(0, os.environ["PYTHONPATH"])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.exit(int(pytest.main(arguments)))


def main() -> int:
    """Make them, print what became of each, and count."""
    survived = total = 0
    for file in sys.argv[1:] or [*providers(), *SHARED]:
        tests = stages(file)
        if any(_fails(str(TOP), each) for each in tests):
            raise SystemExit(f"the tests of {file} fail as they are")
        made = list(mutants(file))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for mutant, caught in zip(made, pool.map(partial(is_caught, tests), made), strict=True):
                word = "caught" if caught else "SURVIVED"
                print(f"{word:8} {mutant.file}.py:{mutant.line} without {mutant.what}", flush=True)
                survived += not caught
        total += len(made)
    print(f"{total} mutants, {total - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
