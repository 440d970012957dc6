"""What the pages of docs/ show is what happens.

Every ```python block of a page is run, in the order of the page and with one namespace for all; a
```text block that follows one holds exactly what it prints. Pages without such blocks pass. A block
that begins with ```python FILE: NAME holds that part of the package (scripts/document_core.py).
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import document_core  # noqa: E402 - found by the line above
import draw_rooms  # noqa: E402

PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*(?: \S+: [^\n]+)?)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def programs(page: str) -> list[tuple[int, str, str]]:
    """(line, program, what it prints) of each python block of a page."""
    found: list[tuple[int, str, str]] = []
    for block in FENCE.finditer(page):
        language, body = block.groups()
        line = page[: block.start()].count("\n") + 2
        if language == "python":
            found.append((line, body, ""))
        elif language == "text" and found:
            between = page[: block.start()].rsplit("```", 1)[1]
            if not between.strip():
                found[-1] = (*found[-1][:2], body)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_runs_and_prints_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": path.stem}
    for line, program, expected in programs(path.read_text(encoding="utf-8")):
        code = compile("\n" * (line - 1) + program, str(path), "exec")
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        assert out.getvalue() == expected, f"{path.name}:{line}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_pictures_lead_to_files(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)\)", text) if not t.startswith("http")]
    assert [t for t in targets if not (path.parent / t).exists()] == []


def test_the_page_on_the_core_shows_the_code_as_it_is() -> None:
    text = document_core.PAGE.read_text(encoding="utf-8")
    assert document_core.page(text) == text, "python scripts/document_core.py mends this"


def test_code_that_is_not_there_is_missed() -> None:
    assert document_core.source_of("ops/arithmetic.py", "Mul.ufunc") == 'ufunc = "multiply"\n'
    with pytest.raises(ValueError, match="which has no Nothing"):
        document_core.source_of("ops/arithmetic.py", "Nothing")


def test_the_reader_of_pages_sees_blocks_and_their_output() -> None:
    page = "a\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nx = 2\n```\n"
    assert programs(page) == [(3, "print(1)\n", "1\n"), (11, "x = 2\n", "")]
    assert programs(page + "a note\n```text\nno output\n```\n") == programs(page)


def test_the_picture_of_the_rooms_is_drawn_from_their_table() -> None:
    assert draw_rooms.PICTURE.read_text(encoding="utf-8") == draw_rooms.drawing()
