"""No two modules need each other, not even for their annotations."""

from __future__ import annotations

from test_layering import MODULES, Import, import_table, imports_of

# Each half of these is a page of its own, and names the other for its types alone.
ALLOWED = [
    {"nanotorch.printing", "nanotorch.tensor"},
    {"nanotorch.autograd.context", "nanotorch.autograd.function"},
]
# A page of names lists, for types and to load on demand, functions that may stand on it.
PAGES_OF_NAMES = ("nanotorch.nn.functional",)


def circles_in(imports: dict[str, list[Import]]) -> list[set[str]]:
    """The sets of modules that reach one another by imports, those for types included."""
    reached = {
        name: {t.module for t in targets if not (t.for_types and name in PAGES_OF_NAMES)}
        for name, targets in imports.items()
    }
    for middle in imports:
        for modules in reached.values():
            if middle in modules:
                modules |= reached[middle]
    circles: list[set[str]] = []
    for name in imports:
        circle = {other for other in reached[name] if name in reached.get(other, ())}
        if circle - {name} and circle not in circles:
            circles.append(circle)
    return circles


def test_no_modules_import_each_other() -> None:
    circles = [c for c in circles_in(import_table()) if not any(c <= other for other in ALLOWED)]
    assert [sorted(circle) for circle in circles] == []


def test_a_circle_for_types_is_found_and_a_chain_is_none() -> None:
    sources = {
        "nanotorch.a": "from nanotorch.b import B",
        "nanotorch.b": "if TYPE_CHECKING:\n    from nanotorch.c import C",
        "nanotorch.c": "from nanotorch import a, d",
        "nanotorch.d": "from math import tau",
    }
    imports = {name: imports_of(name, text, set(sources)) for name, text in sources.items()}
    assert circles_in(imports) == [{"nanotorch.a", "nanotorch.b", "nanotorch.c"}]
    assert set().union(*ALLOWED) <= MODULES
