"""What the pages of docs/ show is what happens.

Every ```python block of a page is run, in the order of the page and with one namespace for all; a
```text block that follows one holds exactly what it prints. Pages without such blocks pass. A block
that begins with ```python FILE: NAME holds that part of the package (scripts/document_core.py). A
```toml block is a configuration or a part of one, the commands of a ```sh block have their files
and options, and the examples of docstrings give what stands below them.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_site  # noqa: E402 - found by the line above
import document_core  # noqa: E402
import draw_rooms  # noqa: E402

from nanotorch.training.commands import COMMANDS  # noqa: E402
from nanotorch.training.config.command_line import read_request  # noqa: E402
from nanotorch.training.config.reader import config_of  # noqa: E402

EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
)

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


TOP = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def anchors(path: Path) -> set[str]:
    """The names by which links lead to the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> list[str]:
    """The links and pictures of a page that lead to no file, or to no heading of it."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    broken = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("path", PAGES + TOP, ids=lambda path: path.name)
def test_links_and_pictures_lead_to_files_and_headings(path: Path) -> None:
    assert broken_links(path) == []


def test_links_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    page.write_text(
        "# A word, `code`\n[a](#a-word-code) [b](other.md#b) [c](#c) [d](none.md)\n"
        '[e](other.md#none) <img src="none.svg">\n'
    )
    other.write_text("## B\n```\n# none\n```\n")
    assert broken_links(page) == ["#c", "none.md", "other.md#none", "none.svg"]


def test_links_of_the_site_that_lead_nowhere_are_seen(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b c.html").write_text('<p id="here"><a href="../a.html#top">x</a>')
    (tmp_path / "a.html").write_text(
        '<a href="folder/b%20c.html#here"></a><a href="https://x/y#z"></a><img src="none.png">'
        '<a href="#none"></a><a href="folder/b%20c.html#none"></a><a href="none.html"></a>'
    )
    links = ["none.png", "#none", "folder/b c.html#none", "none.html"]
    assert build_site.broken_links(tmp_path) == [f"a.html: {link}" for link in links]


def blocks(language: str) -> list[Any]:
    """Each block of a language on the pages, under its page and line."""
    return [
        pytest.param(block[2], id=f"{path.name}:{text[: block.start()].count(chr(10)) + 2}")
        for path in PAGES + TOP
        for text in [path.read_text(encoding="utf-8")]
        for block in FENCE.finditer(text)
        if block[1] == language
    ]


@pytest.mark.parametrize("block", blocks("toml"))
def test_a_configuration_of_a_page_is_one(block: str) -> None:
    config_of(tomllib.loads(block))  # which refuses what is unknown


def mistake_in(command: str) -> str | None:
    """What a command line of a page names that is not there."""
    line = command.replace("nanotorch ", "-m nanotorch ") if command[:9] == "nanotorch" else command
    line = re.sub(r"^(srun|mpiexec)( -\S+( \d+)?)* ", "", line)
    program, *words = shlex.split(line, comments=True) or [""]
    if "pip" in (program, *words[:3]):
        extras = re.findall(r"\[([\w,]+)\]", line.partition("install")[2])
        names = {name for group in extras for name in group.split(",")}
        unknown = names - EXTRAS - {"md"}  # an extra of readme_renderer
        return f"no extra {unknown}" if unknown else None
    if words[:1] == ["nanotorch"] or program == "-m":
        return mistake_in_subcommand(words[1:])
    files = [word for word in words if re.fullmatch(r"(scripts|configs)/\S+|train\.py", word)]
    missing = [file for file in files if not (ROOT / file).exists()]
    if missing:
        return f"no {missing}"
    if words[:1] == ["train.py"] and "--help" not in words and "--resume" not in words:
        read_request(words[1:])
    return None


def mistake_in_subcommand(words: list[str]) -> str | None:
    name, *arguments = words
    if name not in COMMANDS:
        return f"no command {name}"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        COMMANDS[name](["--help"])
    options = [word for word in arguments if word.startswith("--")]
    unknown = [option for option in options if option not in out.getvalue()]
    return f"no {unknown}" if unknown else None


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_commands_of_a_page_have_their_files_and_options(
    block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    lines = [part for line in block.replace("\\\n", " ").splitlines() for part in line.split("&&")]
    assert [mistake for line in lines if (mistake := mistake_in(line.strip()))] == []


@pytest.mark.parametrize(
    "command, words",
    [
        ("python train.py configs/none.toml", "no ['configs/none.toml']"),
        ("nanotorch predicts runs/a", "no command predicts"),
        ("nanotorch export runs/a --too onnx", "no ['--too']"),
        ('pip install "nanotorch[cuda99]"', "no extra {'cuda99'}"),
        ("python scripts/none.py", "no ['scripts/none.py']"),
    ],
)
def test_commands_that_would_fail_are_seen(command: str, words: str) -> None:
    assert mistake_in(command) == words


SOURCES = sorted(
    path
    for path in (ROOT / "nanotorch").rglob("*.py")
    if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), flags=re.M)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_of_docstrings_give_what_they_show(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    monkeypatch.chdir(tmp_path)
    examples = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    # All of the file: what the finder does not reach would never be run.
    lines = sum(len(test.examples) for test in examples)
    assert lines == len(re.findall(r"^\s*>>> ", path.read_text(encoding="utf-8"), flags=re.M))
    report = io.StringIO()
    for test in examples:
        doctest.DocTestRunner().run(test, out=report.write)
    assert report.getvalue() == ""


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
