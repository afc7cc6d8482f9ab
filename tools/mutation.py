"""Mutation of the counting code: how many small faults does the suite catch?

``python tools/mutation.py`` draws candidates (``mutants.py``) by a fixed seed, changes each alone in a copy of the
checkout and runs the tests against it until one fails; it prints the survivors and the share that was caught. Tests
that run the changed lines come first, from fastest to slowest, then all others: a fault survives only the whole suite.

Packages from elsewhere are imported once; every mutant is a fork of this process.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import gc
import json
import os
import py_compile
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from mutants import ROOMS, ROOT, Mutant, draw, mutants, mutated

PRELOADED = (
    "numpy", "pytest", "hypothesis", "pydantic", "yaml", "scipy.optimize", "sympy", "rich", "typer.testing", "networkx",
    "plotly", "torch", "torch.distributed.tensor.parallel", "torch.distributed.fsdp", "torch.distributed.optim",
    "torch.distributed.pipelining", "torch.nn.parallel", "torch.utils.flop_counter", "torch.utils.checkpoint",
    "torch._dynamo",
)  # fmt: skip
"""What the tests import from elsewhere; one that is missing here costs time, no more."""

PATIENCE = 10
"""A test that takes this many seconds more than this many times its usual ones hangs: caught."""
MEMORY_BYTES = 8 << 30

AT_IMPORT = ""
"""In place of a test: what ran before the first one."""

EQUIVALENT: dict[str, str] = {
    "llmsim/layers/attention.py Attention.__call__: True -> False #3": (
        "rotated keys, which caches keep, are as large as the keys that they were made of, which are marked too"
    ),
}
"""Name of a mutant -> why nothing can tell it from the original."""


@dataclass(frozen=True)
class Suite:
    """What is known of the tests.

    Attributes
    ----------
    seconds
        Test -> how long it takes.
    lines
        File -> line -> tests that run it. Incomplete, since what one test has derived another may find remembered:
        good for an order only.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[str, Sequence[str]]]

    @cached_property
    def of_file(self) -> dict[str, set[str]]:
        """File -> tests that run any of its lines."""
        return {file: {test for tests in lines.values() for test in tests} for file, lines in self.lines.items()}

    def order(self, mutant: Mutant) -> dict[str, tuple[int, float]]:
        """Test -> its place: those that run the changed lines, those that run the file, the others.

        Where nothing runs the lines but tests themselves, files of tests that never do are left out.
        """
        first, last = mutant.lines
        lines = self.lines.get(mutant.file, {})
        near = {test for n in range(first, last + 1) for test in lines.get(str(n), ())}
        file = self.of_file.get(mutant.file, set())
        found = {t: (0 if t in near else 1 if t in file else 2, seconds) for t, seconds in self.seconds.items()}
        if AT_IMPORT in near or not near:
            return found
        homes = {test.partition("::")[0] for test in near}
        return {test: place for test, place in found.items() if test.partition("::")[0] in homes}


class Watch:
    """Plugin of a run against one mutant: order, patience, and the name of the first test that fails."""

    def __init__(self, suite: Suite, order: Mapping[str, tuple[int, float]]):
        self.suite, self.order, self.failed = suite, order, ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [i for i in items if i.nodeid in self.order or i.nodeid not in self.suite.seconds]
        items.sort(key=lambda item: self.order.get(item.nodeid, (0, 0.0)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.failed = nodeid  # stands if the process ends in the middle of it
        signal.alarm(int(PATIENCE * (1 + self.suite.seconds.get(nodeid, 1))))


class Gather:
    """Plugin of the run that learns how long each test takes and which lines it runs."""

    def __init__(self, copy: Path):
        import coverage

        self.copy, self.seconds = copy, dict[str, float]()
        include = [str(copy / room / "*") for room in ROOMS]
        self.coverage = coverage.Coverage(data_file=None, include=include, config_file=False)
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        signal.alarm(PATIENCE * 60)
        _forget()
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = -time.perf_counter()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.perf_counter()

    def found(self) -> dict[str, Any]:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {
            str(Path(file).relative_to(self.copy)): {
                line: list(tests) for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        return {"seconds": self.seconds, "lines": lines}


def _forget() -> None:
    """Empty what the package and its tests remember, so that each test derives what it needs."""
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(os.getcwd()):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
            vars(module).get("_CACHE", {}).clear()


def run_tests(copy: Path, *plugins: object) -> int:
    """Run the suite of a copy in this process, which is good for nothing else afterwards."""
    import hypothesis
    import pytest

    os.chdir(copy)
    os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
    sys.dont_write_bytecode = True
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    signal.alarm(PATIENCE * 60)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # The same examples for every mutant, and none of them smaller than it is.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", deadline=None, database=None, derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutation")
    options = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"]
    options.append("--ignore=tests/test_mutation.py")  # it reads the code instead of running it
    return int(pytest.main(options, plugins=list(plugins)))


@contextlib.contextmanager
def forked() -> Iterator[int]:
    """0 in a child that ends with the block, its process id in the parent."""
    sys.stdout.flush()
    if child := os.fork():
        yield child
        return
    status = 70
    try:
        yield 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def gather(copy: Path, path: Path) -> None:
    """Write what is to be known of the tests to a file; the suite must pass."""
    with forked() as child:
        if not child:
            plugin = Gather(copy)
            status = run_tests(copy, plugin)
            path.write_text(json.dumps(plugin.found()), encoding="utf-8")
            sys.exit(status)
    if os.waitpid(child, 0)[1]:
        path.unlink(missing_ok=True)
        sys.exit("the tests do not pass on the code as it is")


def start(mutant: Mutant, suite: Suite, copy: Path) -> int:
    """The process that runs the tests against a mutant, in a copy that is changed."""
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    (copy / mutant.file).write_text(mutated(source, mutant), encoding="utf-8")
    outcome = copy / "outcome.txt"
    outcome.unlink(missing_ok=True)
    with forked() as child:
        if not child:
            watch = Watch(suite, suite.order(mutant))
            status = run_tests(copy, watch)
            outcome.write_text(watch.failed, encoding="utf-8")
            sys.exit(status)
    return child


def finish(mutant: Mutant, status: int, copy: Path) -> str:
    """What caught a mutant whose process has ended: a test, ``import`` or ``limit``; nothing if it survived."""
    shutil.copyfile(ROOT / mutant.file, copy / mutant.file)
    if os.WIFSIGNALED(status):
        return "limit"
    code = os.WEXITSTATUS(status)
    if code not in (0, 1, 2, 3):
        sys.exit(f"{mutant}: pytest ended with {code}")
    return ((copy / "outcome.txt").read_text(encoding="utf-8") or "import") if code else ""


def make_copy(folder: Path) -> Path:
    """A checkout to change. Its bytecode goes by the hashes of sources, so that a changed file never meets its own."""
    ignore = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    copy = Path(shutil.copytree(ROOT, folder, ignore=ignore)).resolve()
    for part in ("llmsim", "tests"):
        compileall.compile_dir(copy / part, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return copy


def run_all(drawn: Sequence[Mutant], suite: Suite, copies: list[Path]) -> Iterator[tuple[Mutant, str, float]]:
    """Each mutant with what caught it and how long that took, as many at a time as there are copies."""
    waiting, running = list(reversed(drawn)), dict[int, tuple[Mutant, Path, float]]()
    while waiting or running:
        while waiting and copies:
            mutant, copy = waiting.pop(), copies.pop()
            running[start(mutant, suite, copy)] = mutant, copy, time.perf_counter()
        child, status = os.wait()
        mutant, copy, began = running.pop(child)
        copies.append(copy)
        yield mutant, finish(mutant, status, copy), time.perf_counter() - began


def main() -> int:
    """Draw, run, report; status 1 below the share that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=2026, help="of the draw")
    parser.add_argument("--workers", type=int, default=2, help="processes side by side")
    parser.add_argument("--share", type=float, default=0.95, help="least share to catch")
    parser.add_argument("--json", type=Path, help="file for the outcome")
    parser.add_argument("--only", default="", help="of those drawn, mutants whose name contains this")
    parser.add_argument("--map", type=Path, help="file that remembers which test runs which lines")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            import_module(name)
    gc.freeze()
    drawn = [m for m in draw(options.count, options.seed) if options.only in m.name]
    print(f"{len(mutants())} candidates, {len(drawn)} drawn by seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        copies = [make_copy(Path(folder) / str(n)) for n in range(options.workers)]
        known = options.map or Path(folder) / "map.json"
        if not known.exists():
            gather(copies[0], known)
        suite = Suite(**json.loads(known.read_text(encoding="utf-8")))
        print(f"{len(suite.seconds)} tests, {sum(suite.seconds.values()):.0f} s with line tracing", flush=True)
        outcome: dict[Mutant, str] = {}
        for mutant, by, seconds in run_all(drawn, suite, copies):
            outcome[mutant] = by
            verdict = "caught  " if by else "SURVIVED"
            print(f"{len(outcome):4d}  {verdict} {seconds:5.1f} s  {mutant}  {by}", flush=True)
    report(outcome)
    if options.json:
        rows = [{**asdict(m), "name": m.name, "caught_by": by} for m, by in outcome.items()]
        options.json.write_text(json.dumps({"seed": options.seed, "mutants": rows}, indent=1), encoding="utf-8")
    return 0 if sum(map(bool, outcome.values())) >= options.share * len(outcome) else 1


def report(outcome: Mapping[Mutant, str]) -> None:
    """Print the shares and the survivors."""
    for kind in ("", *sorted({m.kind for m in outcome})):
        counted = Counter(bool(by) for m, by in outcome.items() if kind in ("", m.kind))
        print(f"{kind or 'all':8s} {counted[True] / counted.total():.1%} of {counted.total()} caught")
    for mutant in (m for m, by in outcome.items() if not by):
        print(f"  {mutant}: {EQUIVALENT.get(mutant.name, 'no reason known')}")


if __name__ == "__main__":
    sys.exit(main())
