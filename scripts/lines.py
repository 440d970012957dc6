"""Prints the lines of every file of the package and keeps the core within its budget.

    python scripts/lines.py

"code" is what is left of a file's lines without blank ones and without docstrings and comments,
whose share is "prose". Which room a file belongs to says `scripts/rooms.py`. The exit status is 1
when the core exceeds its budget of lines of code. Type stubs are counted apart, CUDA sources not.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

import rooms

PACKAGE = Path(__file__).resolve().parent.parent / "nanotorch"
CORE_BUDGET = 2800


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


def main() -> int:
    files: dict[str, dict[str, Lines]] = {room: {} for room in ("core", "stock", *rooms.RINGS)}
    for file in sorted(PACKAGE.rglob("*.py")):
        path = file.relative_to(PACKAGE).as_posix()
        lines = count(file.read_text(encoding="utf-8"))
        files.setdefault(rooms.room_of(path), {})[f"nanotorch/{path}"] = lines
    sums = {room: together(list(counts.values())) for room, counts in files.items()}

    print(f"{'':<44}{'lines':>8}{'code':>8}{'prose':>8}")
    for room, counts in files.items():
        for name, lines in counts.items():
            print(lines.row(name))
        print(sums[room].row(f"  {room} together"))
    stubs = [file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.pyi"))]
    print(together([count(source) for source in stubs]).row("type stubs"))
    print(sums["core"].row("the core", CORE_BUDGET))
    print(together(list(sums.values())).row("the package"))

    if sums["core"].code > CORE_BUDGET:
        print(
            f"lines.py: the core has {sums['core'].code:,} lines of code; it may have "
            f"{CORE_BUDGET:,}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
