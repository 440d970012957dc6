"""How modules are printed: as PyTorch prints them."""

from __future__ import annotations

from nanotorch.backend.loading import when_called

module_html = when_called("nanotorch.viz.notebooks", "module_html")  # which Jupyter asks for


def indented(text: str) -> str:
    """The text with every line but the first moved right by two."""
    return text.replace("\n", "\n  ")


def printed(name: str, extra: list[str], children: list[str]) -> str:
    """Name(extra), on one line if there are no children and at most one line of extra."""
    if not children and len(extra) <= 1:
        return f"{name}({''.join(extra)})"
    return f"{name}(\n  " + "\n  ".join(extra + children) + "\n)"
