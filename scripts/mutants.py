"""Changes the package in small ways, one at a time, and sees whether a test notices.

    python scripts/mutants.py                    200 changes, drawn by seed over all rooms
    python scripts/mutants.py --count 20 --rooms core,training
    python scripts/mutants.py --seed 3 --at-least 0.97
    python scripts/mutants.py --explained --at-least 0    what EXPLAINED says: none is noticed

A change is a swapped comparison or operator, a number one larger, a call or a `raise` left out. The
rooms of scripts/rooms.py take turns in the draw. First every test runs once, and the functions that
it calls are noted. Each change then meets the tests that call the changed function, in a fork of a
process that has collected all tests. What runs at import, and what tests that start processes may
notice, is written into a copy of the tree. Each change is printed with the test that noticed it;
EXPLAINED says of some why they make no difference. The exit status is 1 where fewer of the others
were noticed than --at-least.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import itertools
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))

import rooms

# --- what is changed ------------------------------------------------------------------------------

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip

# Changes that make no difference, or none that can be seen here, by file, function and change.
EXPLAINED: dict[tuple[str, str, str], str] = {
    ("backend/cuda/fused.py", "threads_for_rows", "16 -> 17"): (
        "the kernels take the rows beyond the grid in a loop"
    ),
    ("backend/cuda/transfer.py", "upload", "2 -> 3"): "one block more waits; the copy is the same",
    ("training/data/text_files.py", "", "20 -> 21"): "from which size a copy is kept: speed alone",
    ("training/data/batches.py", "", "2**23 -> 2 * 23"): "the size of blocks: speed alone",
    ("compile/tiles.py", "", "4 << 20 -> 4 >> 20"): "the size of tiles: speed alone",
    ("compile/pieces.py", "Pieces.__call__", "len(self._workers) < threads -> "
     "len(self._workers) <= threads"): "a worker too many, which is never asked",
    ("distributed/world.py", "World._wait", "100 -> 101"): "how long it sleeps between looks",
    ("distributed/world.py", "World._wait", "time.sleep(min(LONGEST_PAUSE, (now - start) / 100)) "
     "-> pass"): "it looks more often, at the cost of a processor",
    ("viz/graphs.py", "_draw", "2 -> 3"): "a wider margin",
    ("viz/graphs.py", "_place", "sweep % 2 -> sweep * 2"): "another order of the same heuristic",
    ("viz/graphs.py", "_order", "sweep % 2 -> sweep * 2"): "another order of the same heuristic",
    ("autograd/grad_mode.py", "inference_mode.__new__", "True -> False"): "neither is a function",
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One small change of one file: the text between two offsets is replaced."""

    path: str  # inside the package
    function: str  # the qualified name of the function, "" for the file's own statements
    line: int
    before: str
    after: str
    start: int = field(repr=False)
    end: int = field(repr=False)
    at_import: bool = False  # runs when the file is imported, as defaults of arguments do

    @property
    def words(self) -> str:
        return " ".join(f"{self.before} -> {self.after}".split())

    @property
    def key(self) -> tuple[str, str, str]:
        return self.path, self.function, self.words

    def applied(self, source: bytes) -> bytes:
        """The changed source, with as many lines as before."""
        lines = source[self.start : self.end].count(b"\n") - self.after.encode().count(b"\n")
        text = self.after.encode()
        if self.after == "pass":
            text += b"\n" * lines
        else:
            text = b"(" + text + b"\n" * lines + b")"
        return source[: self.start] + text + source[self.end :]


def changed(node: ast.AST) -> ast.AST | None:
    """The node as a change would have it, or None where there is none to make."""
    twin: Any = type(node)(**vars(node))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        twin.ops = [SWAPS[type(node.ops[0])]()]
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPS:
        twin.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        return node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        twin.value = not node.value
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        twin.value = node.value + 1
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        return ast.Pass()
    else:
        return None
    return twin


def changes_of(path: str, source: str) -> list[Change]:
    """Every change that can be made to a file, messages, annotations and names of types apart."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    changes: list[Change] = []

    def visit(node: ast.AST, function: str, inside: bool) -> None:
        if isinstance(node, ast.JoinedStr | ast.Assert):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            return
        twin = changed(node)
        if twin is not None:
            at: Any = node
            start = starts[at.lineno - 1] + at.col_offset
            end = starts[at.end_lineno - 1] + at.end_col_offset
            before = source.encode()[start:end].decode()
            after = ast.unparse(twin)
            changes.append(Change(path, function, at.lineno, before, after, start, end, not inside))
        if isinstance(node, ast.Raise):
            return
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            function = f"{function}.{node.name}".lstrip(".")
        elif isinstance(node, ast.Lambda):
            function = f"{function}.<lambda>".lstrip(".")
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
                continue
            if isinstance(node, ast.keyword) and node.arg == "strict":
                continue  # of zip: an assertion
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    visit(child, function, inside or (name == "body" and is_function))

    visit(ast.parse(source), "", False)
    return changes


def drawn(package: Path, count: int, seed: int, chosen: list[str]) -> list[Change]:
    """So many changes: the rooms take turns, and within a room a digest decides.

    A change elsewhere in the package therefore leaves the draw nearly as it was.
    """
    by_room: dict[str, list[tuple[str, Change]]] = {}
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package).as_posix()
        room = rooms.room_of(path)
        seen: dict[tuple[str, str, str], int] = {}
        for change in changes_of(path, file.read_text(encoding="utf-8")):
            number = seen[change.key] = seen.get(change.key, 0) + 1
            text = json.dumps([seed, *change.key, number])
            digest = hashlib.sha256(text.encode()).hexdigest()
            if not chosen or room in chosen:
                by_room.setdefault(room, []).append((digest, change))
    for queue in by_room.values():
        queue.sort(key=lambda pair: pair[0], reverse=True)
    result: list[Change] = []
    while len(result) < count and any(by_room.values()):
        for queue in by_room.values():
            if queue and len(result) < count:
                result.append(queue.pop()[1])
    return result


# --- in the process that has collected the tests (pytest -p mutants) ------------------------------

Function = tuple[str, int]  # path inside the package, first line


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and all codes inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


def by_place(code: types.CodeType) -> dict[tuple[int, str], list[types.CodeType]]:
    """The codes inside a file's, by their first line and name, which lambdas may share."""
    places: dict[tuple[int, str], list[types.CodeType]] = {}
    for inner in codes_in(code):
        places.setdefault((inner.co_firstlineno, inner.co_qualname), []).append(inner)
    return places


def functions_of_the_package() -> list[types.FunctionType]:
    """All functions of all modules, also of those that most programs never load."""
    import nanotorch

    for module in pkgutil.walk_packages(nanotorch.__path__, "nanotorch."):
        with contextlib.suppress(ImportError):
            importlib.import_module(module.name)
    gc.unfreeze()  # what is frozen is not listed
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is types.FunctionType
        and thing.__code__.co_filename.startswith(str(ROOT / "nanotorch"))
    ]


def put_in_place(change: Change, functions: list[types.FunctionType]) -> bool:
    """Gives the functions that live in this process the changed code; whether that can be done."""
    file = str(ROOT / "nanotorch" / change.path)
    source = Path(file).read_bytes()
    before, after = (
        by_place(compile(text, file, "exec", dont_inherit=True))
        for text in (source, change.applied(source))
    )
    twins = {
        old: new
        for place, codes in before.items()
        if len(codes) == len(after.get(place, ()))
        for old, new in zip(codes, after[place], strict=True)
        if old != new
    }
    if any(old.co_freevars != new.co_freevars for old, new in twins.items()):
        return False
    for function in functions:
        if function.__code__.co_filename == file:
            function.__code__ = twins.get(function.__code__, function.__code__)
    return True


AFRESH = "a process of its own is needed"


class Recorder:
    """Notes which functions of the package a test calls."""

    def __init__(self) -> None:
        self.prefix = str(ROOT / "nanotorch") + os.sep
        self.codes: set[types.CodeType] = set()
        self.tests: dict[Function, list[int]] = {}  # numbers of tests, in the order of `seconds`
        self.seconds: dict[str, float] = {}

    def called(self, frame: types.FrameType, event: str, argument: Any) -> None:
        self.codes.add(frame.f_code)

    def run(self, items: list[Any]) -> None:
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.codes.clear()
            start = time.perf_counter()
            sys.settrace(self.called)
            threading.settrace(self.called)
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            finally:
                sys.settrace(None)
                threading.settrace(None)  # type: ignore[arg-type]
            self.seconds[item.nodeid] = time.perf_counter() - start
            for code in self.codes:
                if code.co_filename.startswith(self.prefix):
                    path = code.co_filename.removeprefix(self.prefix)
                    place = path, code.co_firstlineno
                    self.tests.setdefault(place, []).append(len(self.seconds) - 1)


def first_failure(items: list[Any]) -> str:
    """The first of the tests that fails, "" if none does."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        session = item.session
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return str(item.nodeid)
    return ""


def forked(work: Any, seconds: float) -> str:
    """What work() returns in a fork of this process; "no end" if that takes too long."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        result = "error: ended early"
        try:
            os.close(reader)
            null = os.open(os.devnull, os.O_WRONLY)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(null, 1)
            os.dup2(null, 2)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(max(1, int(seconds)))
            result = "=" + work()
        except BaseException as error:
            result = f"error: {type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(OSError):
                os.write(writer, result.encode()[:4000])
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # what its tests had started
    os.set_blocking(reader, False)  # what a test left running may have the other end still open
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        answer = (pipe.read(4000) or b"").decode()
    if not answer:
        return "no end" if os.WTERMSIG(status) == signal.SIGALRM else "ended by a signal"
    return answer.removeprefix("=")


def pytest_runtestloop(session: Any) -> bool:
    """Instead of running the tests: reads orders, one a line, and answers each with a line."""
    functions = functions_of_the_package()
    gc.freeze()  # so that forks share memory
    items = {item.nodeid: item for item in session.items}
    for line in sys.__stdin__:
        order = json.loads(line)
        if "record" in order:

            def record(place: str = order["record"], part: list[int] = order["part"]) -> str:
                recorder = Recorder()
                recorder.run(list(items.values())[part[0] :: part[1]])
                calls = [[*function, tests] for function, tests in recorder.tests.items()]
                Path(place).write_text(json.dumps([list(recorder.seconds.items()), calls]))
                return "recorded"

            answer = forked(record, 7200)
        else:
            change = Change(**order["change"]) if order["change"] else None
            tests = [items[name] for name in order["tests"] if name in items]

            def attempt(change: Change | None = change, tests: list[Any] = tests) -> str:
                if change is not None and not put_in_place(change, functions):
                    return AFRESH
                return first_failure(tests)

            answer = forked(attempt, order["seconds"])
        sys.__stderr__.write(json.dumps(answer) + "\n")
        sys.__stderr__.flush()
    return True


# --- the process that gives the orders ------------------------------------------------------------


LIKELIEST = 200  # tests that a change which runs at import meets


class Collected:
    """A process that has collected all tests of a copy of the tree, and forks to run some."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            command_of_pytest("-p", "mutants", "-s"),
            cwd=tree,
            env=environment(tree),
            stdin=subprocess.PIPE,
            stdout=self.output,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, **order: Any) -> str:
        pipe: Any = self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            pipe.write(json.dumps(order) + "\n")
            pipe.flush()
        answers: Any = self.process.stderr
        for line in answers:
            if line.startswith('"'):
                return str(json.loads(line))
        self.output.seek(0)
        raise RuntimeError(f"pytest ended before it answered:\n{self.output.read()[-2000:]}")


def environment(tree: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'scripts'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }


def command_of_pytest(*more: str) -> list[str]:
    fixed = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow")
    return [sys.executable, "-m", "pytest", *fixed, *more]


def copy_of_the_tree(folder: Path) -> Path:
    tree = folder / "tree"
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    return tree


def recorded(workers: list[Collected], folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The tests that call each function of each file, and the seconds of each test."""
    calls: dict[str, dict[int, list[str]]] = {}
    seconds: dict[str, float] = {}

    def part(number: int) -> None:
        place = folder / f"calls-{number}.json"
        if not place.exists():
            workers[number].ask(record=str(place), part=[number, len(workers)])

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(part, range(len(workers))))
    for number in range(len(workers)):
        times, these = json.loads((folder / f"calls-{number}.json").read_text())
        seconds.update(times)
        for path, line, tests in these:
            names = [times[test][0] for test in tests]
            calls.setdefault(path, {}).setdefault(line, []).extend(names)
    return calls, seconds


def lines_of_functions(source: str, change: Change) -> list[int]:
    """The first lines of the functions around a change, decorators included, the inner first."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            if node.lineno <= change.line <= (node.end_lineno or node.lineno):
                decorators = getattr(node, "decorator_list", [])
                lines.append(min([node.lineno, *(d.lineno for d in decorators)]))
    return lines[::-1]


def covering(
    change: Change, source: str, calls: dict[str, Any], seconds: dict[str, float], limit: float
) -> list[str]:
    """The tests that call the changed function, or anything of its file, for so many seconds."""
    here = calls.get(change.path, {})
    tests: list[str] = []
    for line in lines_of_functions(source, change):
        tests = here.get(line, [])
        if tests:
            break
    tests = tests or [test for names in here.values() for test in names]
    # One test of each kind first, the quick ones before the slow ones; then a second of each kind.
    turns: dict[str, int] = {}
    ordered = []
    for test in sorted(set(tests), key=lambda test: (seconds.get(test, 0), test)):
        kind = test.partition("[")[0]
        turns[kind] = turns.get(kind, 0) + 1
        ordered.append((turns[kind], seconds.get(test, 0), test))
    ordered.sort()
    times = itertools.accumulate(time for _, time, _ in ordered)
    return [test for (*_, test), time in zip(ordered, times, strict=True) if time < limit]


def noticed_afresh(tree: Path, change: Change, tests: list[str], all_of_them: bool) -> str:
    """What notices the change where it stands in the file: a test's name, or "" for nothing."""
    training = change.path.startswith("training/")
    starting = [
        f"tests/{test.name}"
        for test in sorted((tree / "tests").glob("test_training_*.py"))
        if training and "subprocess" in test.read_text(encoding="utf-8")
    ]
    chosen = [*(tests[:LIKELIEST] if all_of_them else []), *starting]
    if not chosen:
        return ""
    file = tree / "nanotorch" / change.path
    source = file.read_bytes()
    broken: list[str] = []  # what fails without the change, too
    while True:
        file.write_bytes(change.applied(source))
        try:
            failure = first_failure_afresh(tree, chosen, broken)
        finally:
            file.write_bytes(source)
        test = failure.removeprefix("FAILED ").removeprefix("ERROR ")
        if test == failure or not first_failure_afresh(tree, [test], []):
            return failure
        broken.append(test)


def first_failure_afresh(tree: Path, tests: list[str], without: list[str]) -> str:
    """The first failure of the tests in a process of its own, "" if none fails."""
    names = tree / "tests.txt"
    names.write_text("\n".join([*tests, *(f"--deselect={test}" for test in without)]))
    try:
        run = subprocess.run(
            command_of_pytest("--tb=no", f"@{names}"),
            cwd=tree, env=environment(tree), capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "no end"
    if run.returncode == 0 or (without and run.returncode == 5):  # 5: no test is left
        return ""
    failures = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failures[0].partition(" - ")[0] if failures else f"status {run.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", default="", help="names of scripts/rooms.py with commas")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.97)
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a change")
    parser.add_argument("--calls", type=Path, help="a folder that keeps what tests call")
    parser.add_argument("--explained", action="store_true", help="only what EXPLAINED explains")
    parser.add_argument("--list", action="store_true", help="print the changes and end")
    options = parser.parse_args()

    chosen = [name for name in options.rooms.split(",") if name]
    changes = drawn(ROOT / "nanotorch", options.count, options.seed, chosen)
    if options.explained:
        everything = drawn(ROOT / "nanotorch", sys.maxsize, 0, [])
        changes = [change for change in everything if change.key in EXPLAINED]
        EXPLAINED.clear()
    if options.list:
        for change in changes:
            print(f"{change.path}:{change.line} {change.function}: {change.words}")
        return 0

    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        tree = copy_of_the_tree(folder)
        workers = [Collected(tree) for _ in range(options.jobs)]
        start = time.monotonic()
        calls, seconds = recorded(workers, options.calls or folder)
        print(f"{len(seconds)} tests ran in {time.monotonic() - start:.0f} s", flush=True)
        results = try_all(changes, workers, calls, seconds, options.seconds)
        for worker in workers:
            worker.process.kill()
        rest = [change for change in changes if results[change][0] in ("", AFRESH)]
        survivors: list[Change] = []

        def once_more(number: int) -> None:
            copy = copy_of_the_tree(folder / str(number))
            while rest:
                change = rest.pop(0)
                test = ""
                if change.key not in EXPLAINED:
                    answer, tests = results[change]
                    test = noticed_afresh(copy, change, tests, answer == AFRESH)
                if not test:
                    survivors.append(change)
                show(change, test or EXPLAINED.get(change.key, "NOT NOTICED"))

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(once_more, range(options.jobs)))

    explained = [change for change in survivors if change.key in EXPLAINED]
    count = len(changes) - len(explained)
    noticed = len(changes) - len(survivors)
    print(f"{noticed} of {count} changes were noticed ({noticed / max(count, 1):.1%});", end=" ")
    print(f"{len(explained)} more make no difference")
    return int(noticed < options.at_least * count)


def show(change: Change, answer: str) -> None:
    print(
        f"{change.path}:{change.line} {change.function}: {change.words}\n    {answer}", flush=True
    )


def try_all(
    changes: list[Change],
    workers: list[Collected],
    calls: dict[str, Any],
    seconds: dict[str, float],
    limit: float,
) -> dict[Change, tuple[str, list[str]]]:
    """For each change the test that notices it in a fork ("": none does), and all that cover it."""
    results: dict[Change, tuple[str, list[str]]] = {}
    queue = list(changes)

    def work(worker: Collected) -> None:
        while queue:
            change = queue.pop(0)
            source = (ROOT / "nanotorch" / change.path).read_text(encoding="utf-8")
            tests = covering(change, source, calls, seconds, limit)
            test = AFRESH if change.at_import else ""
            if change.key not in EXPLAINED and not test:
                test = noticed_by(worker, change, tests, seconds)
            results[change] = test, tests
            if test not in ("", AFRESH):
                show(change, test)

    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(work, workers))
    return results


def noticed_by(
    worker: Collected, change: Change, tests: list[str], seconds: dict[str, float]
) -> str:
    """The test that fails with the change and passes without it."""
    rest = list(tests)
    while rest:
        limit = 30 + 10 * sum(seconds.get(test, 0) for test in rest)
        answer = worker.ask(change=vars(change), tests=rest, seconds=limit)
        if answer.startswith("error"):
            raise RuntimeError(f"{change}: {answer}")
        if answer not in rest:
            return answer  # "", or how it ended
        if not worker.ask(change=None, tests=[answer], seconds=120):
            return answer
        rest = rest[rest.index(answer) + 1 :]  # which fails in a fork, whatever is changed
    return ""


if __name__ == "__main__":
    sys.exit(main())
