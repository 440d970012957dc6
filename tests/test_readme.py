"""What README.md shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks_after(mark: str) -> list[str]:
    """The fenced blocks that follow the comment <!-- MARK -->, in their order."""
    _, found, rest = README.partition(f"<!-- {mark} -->\n")
    assert found, f"README.md has no <!-- {mark} -->"
    return re.findall(r"^```\w*\n(.*?)^```$", rest, flags=re.MULTILINE | re.DOTALL)


def printed_by(program: str) -> str:
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_library_example_prints_what_stands_below_it() -> None:
    program, output = blocks_after("test:example")[:2]
    assert printed_by(program) == output


@pytest.mark.torch
def test_the_library_example_prints_the_same_with_pytorch() -> None:
    program, output = blocks_after("test:example")[:2]
    theirs = program.replace("import nanotorch as torch", "import torch")
    theirs = theirs.replace("from nanotorch import nn", "from torch import nn")
    assert theirs.count("nanotorch") == 1  # the data alone
    assert printed_by(theirs) == output


@pytest.mark.parametrize("mark", ["ci:run", "ci:test"])
def test_the_two_commands_stand_on_their_own(mark: str) -> None:
    (command,) = blocks_after(mark)[0].splitlines()
    assert command.startswith("python3 -m venv .venv && ")
    assert "pip install -q -e " in command  # this clone, not a published release
    for name in re.findall(r"[\w/]+\.(?:py|toml)", command):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_of_the_repository(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert [
        target
        for target in targets
        if not target.startswith("https://") and not (ROOT / target).exists()
    ] == []
