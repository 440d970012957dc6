"""Writes the tables of every configuration key into docs/training.md, from the models themselves.

python scripts/document_config.py
"""

from __future__ import annotations

from pathlib import Path

from nanotorch.training.config.help import markdown_tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "training.md"
MADE = "from the models that read the file.\n\n"  # what follows this line is made here


def page() -> str:
    """The page with its tables made anew."""
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(MADE)
    return before + MADE + markdown_tables()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
