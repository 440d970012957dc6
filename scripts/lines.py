"""Prints the lines of every file of the package and keeps the core within its budgets.

    python scripts/lines.py

"code" is what is left of a file's lines without blank ones and without docstrings and comments,
whose share is "prose". The core is counted in code lines and in six parts, of which the first two
are what one reads to understand it:

- engine: how an op is applied, recorded and walked back; arrays, dtypes, devices, tensors
- ops: the ops themselves, one class each
- likeness: what only has to match PyTorch letter by letter, its random streams and its printing
- tools: what stands on the engine under `autograd`, such as user-defined functions and gradcheck
- compiler: what records a step and replays it
- gpu: what runs on CUDA devices alone, launches of our kernels, cuBLAS and graphs

The exit status is 1 when a part exceeds its budget, or a file of the package FILE_BUDGET lines of
any kind. CUDA sources are not counted.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "nanotorch"
FILE_BUDGET = 500
CODE_BUDGETS = {
    "engine": 3000,
    "ops": 3600,
    "likeness": 1000,
    "tools": 1000,
    "gpu": 2000,
    "compiler": 2500,
}
# The longest prefix of a file's path decides where it belongs.
CORE = {
    "backend/": "engine",
    "node.py": "engine",
    "primitive.py": "engine",
    "autograd/": "engine",
    "tensor.py": "engine",
    "operators.py": "engine",
    "creation.py": "engine",
    "ops/": "ops",
    "backend/cuda/": "gpu",
    "compile/": "compiler",
    "compile/cuda_graph.py": "gpu",
    "compile/cuda_halves.py": "gpu",
    "backend/mersenne.py": "likeness",
    "random.py": "likeness",
    "sampling.py": "likeness",
    "printing.py": "likeness",
    "autograd/context.py": "tools",
    "autograd/function.py": "tools",
    "autograd/functional.py": "tools",
    "autograd/gradcheck.py": "tools",
}


class Lines(NamedTuple):
    """How many lines there are in all, how many are blank, how many are prose."""

    total: int = 0
    blank: int = 0
    prose: int = 0

    @property
    def code(self) -> int:
        return self.total - self.blank - self.prose

    def row(self, name: str, budget: int | None = None) -> str:
        filled = self.total - self.blank
        share = f"{self.prose / filled:.0%}" if filled else ""
        limit = "" if budget is None else f"   at most {budget:,} lines of code"
        return f"{name:<44}{self.total:>8,}{self.code:>8,}{share:>8}{limit}"


def together(counts: list[Lines]) -> Lines:
    return Lines(*(sum(column) for column in zip(*counts, strict=True))) if counts else Lines()


def count(source: str) -> Lines:
    """Counts the lines of one Python file; a blank line inside a docstring is blank."""
    lines = source.splitlines()
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    prose: set[int] = set()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            prose.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # A comment behind code leaves its line a line of code.
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            prose.add(token.start[0])
    return Lines(len(lines), len(blank), len(prose - blank))


def part_of(path: str) -> str:
    """The part of the core, or the subpackage, that a path inside the package belongs to."""
    prefixes = [prefix for prefix in CORE if path.startswith(prefix)]
    return CORE[max(prefixes, key=len)] if prefixes else path.split("/")[0].removesuffix(".py")


def main() -> int:
    parts: dict[str, dict[str, Lines]] = {part: {} for part in CODE_BUDGETS}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        lines = count(file.read_text(encoding="utf-8"))
        parts.setdefault(part_of(path), {})[f"nanotorch/{path}"] = lines
    sums = {part: together(list(files.values())) for part, files in parts.items()}

    print(f"{'':<44}{'lines':>8}{'code':>8}{'prose':>8}")
    for part, files in parts.items():
        for name, lines in files.items():
            print(lines.row(name))
        if len(files) > 1:
            print(sums[part].row(f"  {part} together", CODE_BUDGETS.get(part)))
    print(together([sums[part] for part in CODE_BUDGETS]).row("the core"))
    print(together(list(sums.values())).row("the package"))

    broken = [
        f"{name} has {lines.total:,} lines; a file may have {FILE_BUDGET:,}"
        for files in parts.values()
        for name, lines in files.items()
        if lines.total > FILE_BUDGET
    ]
    broken += [
        f"{part} has {sums[part].code:,} lines of code; it may have {budget:,}"
        for part, budget in CODE_BUDGETS.items()
        if sums[part].code > budget
    ]
    for message in broken:
        print(f"lines.py: {message}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
