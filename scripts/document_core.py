"""Writes the code that docs/core.md shows into the page, from the package itself.

    python scripts/document_core.py

A block of the page begins with ```python FILE: NAME, where FILE is a path inside the package and
NAME a function, a class, a method (`Class.method`) or an assigned name; `NAME without docstrings`
leaves them out. The tests hold the page to what this script writes.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "core.md"
BLOCK = re.compile(r"^(```python (\S+): (\S+)( without docstrings)?\n).*?^```$", re.M | re.S)


def source_of(path: str, name: str, docstrings: bool = True) -> str:
    """The lines of a function, a class, a method or an assignment in a file of the package.

    ValueError where the file has no such name.
    """
    text = (ROOT / "nanotorch" / path).read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in name.split("."):
        node = next((statement for statement in body if part in names_of(statement)), None)
        if node is None:
            raise ValueError(f"docs/core.md shows {name} of {path}, which has no {part}")
        body = getattr(node, "body", [])
    assert node is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    if not docstrings:
        for inner in ast.walk(node):
            if not isinstance(inner, ast.FunctionDef | ast.ClassDef):
                continue
            if ast.get_docstring(inner) and len(inner.body) > 1:
                docstring = inner.body[0]
                for number in range(docstring.lineno, (docstring.end_lineno or 0) + 1):
                    lines[number - first] = "\0"
        lines = [line for line in lines if line != "\0"]
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


def names_of(statement: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def page(text: str) -> str:
    """The page with the code in its blocks as the package has it now."""

    def block(match: re.Match[str]) -> str:
        head, path, name, without = match.groups()
        return f"{head}{source_of(path, name, not without)}```"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
