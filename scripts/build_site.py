"""Builds the documentation site: the pages of docs/, the notebook run anew, and a reference.

    python scripts/build_site.py [FOLDER]       # build/site if not given

Needs `pip install -e ".[site]"`. The reference is made of the docstrings: for each public name its
signature and its text, and PyTorch's parameters where they differ and PyTorch is installed. Every
warning of Sphinx is an error, and so is a link that leads to no page or to no place on it.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Pages from the top of the repository, under their names on the site.
TOP = {"ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md"}
TOP["CHANGELOG.md"] = "changelog.md"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")

# Pages of the reference: title, package, and what it calls itself.
PACKAGES = {
    "nanotorch": "Tensors and ops",
    "nanotorch.nn": "Layers and losses",
    "nanotorch.nn.functional": "Functions of layers",
    "nanotorch.nn.init": "Initial values",
    "nanotorch.nn.utils": "Clipping, packing, reparametrization",
    "nanotorch.optim": "Optimizers",
    "nanotorch.optim.lr_scheduler": "Learning rates",
    "nanotorch.utils.data": "Data loading",
    "nanotorch.linalg": "Linear algebra",
    "nanotorch.distributions": "Distributions",
    "nanotorch.autograd": "Differentiation",
    "nanotorch.func": "Transformations of functions",
    "nanotorch.amp": "Mixed precision",
    "nanotorch.cuda": "Devices",
    "nanotorch.viz": "Pictures of graphs",
    "nanotorch.training": "Runs from Python",
    "nanotorch.interop.sklearn": "scikit-learn",
    "nanotorch.interop.onnx": "ONNX",
}


def main() -> int:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "site").resolve()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        lay_out(source)
        write_reference(source / "api")
        command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
        failure = subprocess.run([*command, str(source), str(target)], cwd=folder).returncode
    broken = broken_links(target)
    for link in broken:
        print(f"no such place: {link}", file=sys.stderr)
    return failure or int(bool(broken))


# --- pages ----------------------------------------------------------------------------------------


def lay_out(source: Path) -> None:
    """Put every page where Sphinx reads it, with its links as they lead on the site."""
    shutil.copytree(DOCS / "site", source, dirs_exist_ok=True)
    shutil.copytree(DOCS / "images", source / "images")
    (source / "_static").mkdir()
    (source / "site.css").rename(source / "_static" / "site.css")
    for path in sorted(DOCS.glob("*.md")):
        (source / path.name).write_text(turned(path, "docs"), encoding="utf-8")
    for name, page in TOP.items():
        (source / page).write_text(turned(ROOT / name, "."), encoding="utf-8")
    shutil.copy(DOCS / "training.ipynb", source / "training-notebook.ipynb")


def turned(path: Path, folder: str) -> str:
    """A page's text with links for the site: to pages; just the words where they lead to code."""

    def turn(match: re.Match[str]) -> str:
        words, link = match.groups()
        if "://" in link or link.startswith("#"):
            return match[0]
        target, _, anchor = link.partition("#")
        resolved = (ROOT / folder / target).resolve()
        if resolved == DOCS / "training.ipynb":
            return f"[{words}](training-notebook.ipynb)"
        if resolved.suffix == ".md" and resolved.parent in (DOCS, ROOT):
            page = TOP.get(resolved.name, resolved.name if resolved.parent == DOCS else "index.md")
            return f"[{words}]({page}{'#' + anchor if anchor else ''})"
        return words

    parts = re.split(r"(^```.*?^```$)", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    parts[::2] = [
        LINK.sub(turn, part).replace('src="docs/images', 'src="images') for part in parts[::2]
    ]
    return re.sub(r"^```(\w+) file: \S+$", r"```\1", "".join(parts), flags=re.M)


# --- links ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The places of a page that links can lead to, and the links that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = {"", "top"}  # which browsers know of themselves
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id" and value:
                self.places.add(value)
            elif name in ("href", "src") and value and not re.match(r"[a-z]+:|//", value):
                self.links.append(unquote(value))


def broken_links(folder: Path) -> list[str]:
    """The links between the pages of a built site that lead to no file, or to no place in it."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            file, _, place = link.partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            there = target in pages and place in pages[target].places
            if not there and (target in pages or not target.exists()):
                broken.append(f"{path.relative_to(folder.resolve())}: {link}")
    return broken


# --- reference ------------------------------------------------------------------------------------


def write_reference(folder: Path) -> None:
    folder.mkdir()
    names = []
    for package, title in PACKAGES.items():
        name = package.replace(".", "-")
        names.append(name)
        (folder / f"{name}.md").write_text(page_of(package, title), encoding="utf-8")
    (folder / "tensor.md").write_text(page_of_tensor(), encoding="utf-8")
    listing = "\n".join(["tensor", *names])
    (folder / "index.md").write_text(
        "# Reference\n\nNames, arguments and behaviour are PyTorch's; where arguments differ, both "
        f"are shown.\n\n```{{toctree}}\n{listing}\n```\n",
        encoding="utf-8",
    )


def page_of(package: str, title: str) -> str:
    """The public names of a package with their signatures and docstrings."""
    module = loaded(package)
    sections = []
    for name, value in public(module):
        other = loaded_by_torch(package, name)
        sections.append(section(f"{package}.{name}", name, value, other))
    text = cleaned(inspect.getdoc(module) or "")
    return f"# {title}: `{package}`\n\n{text}\n\n" + "\n\n".join(sections) + "\n"


def page_of_tensor() -> str:
    from nanotorch import Tensor

    torch = loaded_by_torch("nanotorch", "Tensor")
    methods = sorted(name for name in dir(Tensor) if not name.startswith("_"))
    sections = []
    for name in methods:
        value = inspect.getattr_static(Tensor, name)
        value = value.fget if isinstance(value, property) else getattr(Tensor, name)
        if callable(value) and inspect.getdoc(value):
            sections.append(section(f"Tensor.{name}", name, value, getattr(torch, name, None)))
    text = cleaned(inspect.getdoc(Tensor) or "")
    return f"# Tensor\n\n{text}\n\n" + "\n\n".join(sections) + "\n"


def loaded(package: str) -> Any:
    import importlib

    return importlib.import_module(package)


def loaded_by_torch(package: str, name: str) -> Any:
    """PyTorch's counterpart, or None."""
    try:
        import torch  # noqa: F401

        module = loaded(package.replace("nanotorch", "torch", 1))
    except ImportError:
        return None
    return getattr(module, name, None)


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """The functions and classes of ours under a package's public names."""
    for name in sorted(vars(module).get("__all__", dir(module)), key=str.lower):
        if name.startswith("_"):
            continue
        value = getattr(module, name)
        of_ours = str(getattr(value, "__module__", "")).startswith("nanotorch")
        if of_ours and (inspect.isclass(value) or callable(value)) and inspect.getdoc(value):
            yield name, value


def section(path: str, name: str, value: Any, other: Any) -> str:
    signature = signature_of(value)
    lines = [f"## {name}", "", "```python", f"{path}{signature}", "```", ""]
    if theirs := differing(value, other):
        lines += [f"In PyTorch: `{name}{theirs}`", ""]
    lines.append(cleaned(inspect.getdoc(value) or ""))
    if inspect.isclass(value):
        for method, function in own_methods(value):
            lines += ["", f"**`{method}{signature_of(function)}`**", ""]
            lines.append(cleaned(inspect.getdoc(function) or ""))
    return "\n".join(lines)


def own_methods(kind: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(kind).items():
        if inspect.isfunction(value) and not name.startswith("_") and value.__doc__:
            yield name, value


def signature_of(value: Any) -> str:
    """Parameters with their defaults, without annotations."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    parameters = [
        p.replace(annotation=p.empty) for p in signature.parameters.values() if p.name != "self"
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    return re.sub(r"<([\w.]+)(?: object)? at 0x[0-9a-f]+>", r"\1", text)


def differing(value: Any, other: Any) -> str:
    """PyTorch's parameters as text where their names are others than ours; else nothing."""
    if other is None:
        return ""
    try:
        theirs = [n for n in inspect.signature(other).parameters if n != "self"]
    except (TypeError, ValueError):  # of a builtin the first line of its docstring says it
        first = (inspect.getdoc(other) or "").split("\n")[0]
        match = re.match(r"\w+\(([^)]*)\)", first)
        if match is None:
            return ""
        theirs = [part.split("=")[0].strip(" *") for part in match[1].split(",")]
    theirs = [name for name in theirs if name and name not in ("args", "kwargs")]
    try:
        ours = [n for n in inspect.signature(value).parameters if n != "self"]
    except (TypeError, ValueError):
        return ""
    rest = {"out", "dtype", "device", "layout", "pin_memory", "requires_grad", "generator"}
    kept = [name for name in theirs if name not in rest]
    if [name for name in ours if name not in rest and name not in ("args", "kwargs")] == kept:
        return ""
    return f"({', '.join(theirs)})" if theirs else ""


def cleaned(text: str) -> str:
    """A docstring as Markdown: examples fenced, and what looks like HTML or a heading as it is."""
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        if block.lstrip().startswith(">>>"):
            blocks.append("```python\n" + textwrap.dedent(block) + "\n```")
        elif block.startswith("    "):
            blocks.append("```text\n" + textwrap.dedent(block) + "\n```")
        else:
            blocks.append(escaped(block))
    return "\n\n".join(blocks)


def escaped(block: str) -> str:
    """Markdown's signs as they are, outside of code and addresses."""
    parts = re.split(r"(`[^`]*`|https?://\S+[\w/])", block)
    parts[::2] = [re.sub(r"[<*_|\[\]$#]", r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [part if part.startswith("`") else f"<{part}>" for part in parts[1::2]]
    return "".join(parts)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
