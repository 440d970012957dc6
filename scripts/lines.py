"""Prints the lines of every file of the package and keeps its size within the budget.

    python scripts/lines.py

"prose" is the share of docstring and comment lines among the lines that are not blank. The core may
have CORE_BUDGET lines in all, blank ones included, and no file of the package more than
FILE_BUDGET; the exit status is 1 when either is exceeded. CUDA sources are not counted.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "nanotorch"
CORE = {
    *("backend", "primitive", "ops", "autograd"),
    *("tensor", "operators", "sampling", "creation", "random", "printing"),
}
CORE_BUDGET = 3500
FILE_BUDGET = 500


class Lines(NamedTuple):
    """How many lines there are in all, how many are blank, how many are prose."""

    total: int
    blank: int
    prose: int

    def __add__(self, other: Lines) -> Lines:  # type: ignore[override]
        return Lines(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def row(self, name: str) -> str:
        filled = self.total - self.blank
        share = f"{self.prose / filled:.0%}" if filled else ""
        return f"{name:<44}{self.total:>8,}{filled:>8,}{share:>8}"


def count(source: str) -> Lines:
    """Counts the lines of one Python file; a blank line inside a docstring is blank."""
    lines = source.splitlines()
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    prose: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            prose.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # A comment behind code leaves its line a line of code.
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            prose.add(token.start[0])
    return Lines(len(lines), len(blank), len(prose - blank))


def main() -> int:
    parts: dict[str, dict[str, Lines]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        part = inside.parts[0].removesuffix(".py")
        lines = count(path.read_text(encoding="utf-8"))
        parts.setdefault(part, {})[f"nanotorch/{inside.as_posix()}"] = lines
    nothing = Lines(0, 0, 0)
    sums = {part: sum(files.values(), nothing) for part, files in parts.items()}
    core = sum((lines for part, lines in sums.items() if part in CORE), nothing)

    print(f"{'':<44}{'lines':>8}{'filled':>8}{'prose':>8}")
    for part in sorted(parts, key=lambda part: (part not in CORE, part)):
        for name, lines in parts[part].items():
            print(lines.row(name))
        if len(parts[part]) > 1:
            print(sums[part].row(f"  {part} together"))
    print()
    print(core.row(f"core (at most {CORE_BUDGET:,})"))
    print(sum(sums.values(), nothing).row("package"))

    broken = [
        f"{name} has {lines.total:,} lines; a file may have {FILE_BUDGET:,}"
        for files in parts.values()
        for name, lines in files.items()
        if lines.total > FILE_BUDGET
    ]
    if core.total > CORE_BUDGET:
        broken.append(f"the core has {core.total:,} lines; it may have {CORE_BUDGET:,}")
    for message in broken:
        print(f"lines.py: {message}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
