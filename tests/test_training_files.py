"""Files and runs: nothing lost, nothing torn, no code run, and one line for whatever is damaged."""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib.util
import json
import math
import os
import py_compile
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damage
import numpy as np
import pytest
import safetensors.numpy
from crashes import Disk

import nanotorch as nt
from nanotorch.training import fit, read_request, trust
from nanotorch.training.checkpoint import checkpoints_in, load_checkpoint, serial
from nanotorch.training.commands import COMMANDS
from nanotorch.training.config.positions import key_lines
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Reading
from nanotorch.training.data import text_files
from nanotorch.training.data.tables import read_table
from nanotorch.training.data.text_files import read_text_table
from nanotorch.training.data.values import Numbers, date_format, is_number
from nanotorch.training.errors import InputError, plain
from nanotorch.training.exits import exit_code
from nanotorch.training.exporting import export_run
from nanotorch.training.files import guarded_cell, sha256
from nanotorch.training.model_file import ModelFile, read_model_file, write_model_file
from nanotorch.training.models import start_from
from nanotorch.training.prediction import Wishes, predict_file
from nanotorch.training.run_folder import read_log, replace_config

QUICK = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home of its own, with a configuration that trains in no time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 3\n')
    return tmp_path


def train(*flags: str, resume: str | None = None) -> Path:
    config = read_request(["a.toml", *QUICK, *flags]).configs[0]
    return fit(config, resume, quiet=True).folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def call(command: str, *arguments: str) -> int:
    return exit_code(COMMANDS[command], list(arguments), f"nanotorch {command}")


# --- going on ----------------------------------------------------------------------------------


def other_keys(folder: Path) -> list[str]:
    return ["--optimizer.lr", "0.5"]


def damaged(folder: Path) -> list[str]:
    (checkpoints_in(folder)[-1] / "model.safetensors").write_bytes(b"")
    return []


def shortened(folder: Path) -> list[str]:
    (folder / "metrics.jsonl").write_bytes(b"")
    return []


def no_log(folder: Path) -> list[str]:
    (folder / "metrics.jsonl").unlink()
    return []


def deleted(folder: Path) -> list[str]:
    shutil.rmtree(folder / "checkpoints")
    return []


def deleted_with_events(folder: Path) -> list[str]:
    (folder / "events.jsonl").unlink()
    return deleted(folder)


def deleted_with_logs(folder: Path) -> list[str]:
    (folder / "metrics.jsonl").unlink()
    return deleted(folder)


def deleted_before_the_end(folder: Path) -> list[str]:
    """As after a run that was killed: of all that it wrote, its start and its first epoch."""
    for name in ("model.safetensors", "summary.json"):
        (folder / name).unlink()
    (folder / "events.jsonl").write_bytes(b'{"event": "checkpo')
    return deleted(folder)


def one_file_gone(folder: Path) -> list[str]:
    (checkpoints_in(folder)[-1] / "training.safetensors").unlink()
    return []


def empty_checkpoint(folder: Path) -> list[str]:
    (folder / "checkpoints" / "999999-step-12").mkdir()
    return []


def file_for_a_checkpoint(folder: Path) -> list[str]:
    (folder / "checkpoints" / "1000001-step-12").write_bytes(b"")
    return []


def changed_state(folder: Path, **values: Any) -> list[str]:
    path = checkpoints_in(folder)[-1] / "state.json"
    state = json.loads(path.read_bytes().rstrip().rpartition(b"\n")[0])
    body = json.dumps({**state, **values}).encode()
    path.write_bytes(body + f"\n{sha256(body)}\n".encode())
    return []


def newer_format(folder: Path) -> list[str]:
    return changed_state(folder, format=2)


def no_format(folder: Path) -> list[str]:
    return changed_state(folder, format=None)


def odd_length(folder: Path) -> list[str]:
    return changed_state(folder, log_bytes=10**400)


def torn_configuration(folder: Path) -> list[str]:
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text[: len(text) // 2])
    return []


def edited_configuration(folder: Path) -> list[str]:
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("batch_size = ", "batch_size = 1"))
    return []


def no_configuration(folder: Path) -> list[str]:
    (folder / "config.toml").unlink()
    return []


def damaged_event(folder: Path) -> list[str]:
    (folder / "events.jsonl").write_bytes(b'{"event": \n{"event": "start"}\n')
    return deleted(folder)


def linked_log(folder: Path) -> list[str]:
    (folder / "metrics.jsonl").rename(folder / "elsewhere")
    (folder / "metrics.jsonl").symlink_to("elsewhere")
    return []


def other_rows(folder: Path) -> list[str]:
    facts = json.loads((folder / "data.json").read_text())
    facts["parts"]["train"] = "0"
    (folder / "data.json").write_text(json.dumps(facts))
    return []


def damaged_identity(folder: Path) -> list[str]:
    (folder / "data.json").write_bytes(b"[]")
    return []


def full_disk(folder: Path) -> list[str]:
    """A file of the folder cannot be written beside its place, as where a disk takes no more."""
    (folder / f".config.toml-{os.getpid()}").mkdir()
    return []


def another_model(folder: Path) -> list[str]:
    """A checkpoint that is whole, but holds the weights of another model."""
    path = checkpoints_in(folder)[-1]
    state = json.loads((path / "state.json").read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0])
    weights = safetensors.numpy.save({"weight": np.zeros((7, 7), np.float32)})
    (path / "model.safetensors").write_bytes(weights)
    state["files"]["model.safetensors"] = sha256(weights)
    body = json.dumps(state).encode()
    (path / "state.json").write_bytes(body + f"\n{sha256(body)}\n".encode())
    return []


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "other keys": (other_keys, "other values of optimizer.lr"),
    "a damaged checkpoint": (damaged, "damaged: its SHA-256"),
    "a shortened log": (shortened, "the file was changed since"),
    "a lost log": (no_log, "metrics.jsonl: there is no such file"),
    "deleted checkpoints": (deleted, "has no checkpoint left to go on from"),
    "another seed": (lambda folder: ["--seed", "7"], "other values of seed"),
    "other shards": (lambda folder: ["--training.shards", "4"], "other values of training.shards"),
    "checkpoints deleted with the events": (deleted_with_events, "no checkpoint left"),
    "checkpoints deleted with the log": (deleted_with_logs, "metrics.jsonl: there is no such file"),
    "checkpoints deleted of a killed run": (deleted_before_the_end, "no checkpoint left"),
    "checkpoints deleted, and events damaged": (damaged_event, "events.jsonl:1: not a record"),
    "a file of a checkpoint deleted": (one_file_gone, "training.safetensors: cannot be read"),
    "an empty checkpoint": (empty_checkpoint, "999999-step-12/state.json: cannot be read"),
    "a file called as a checkpoint": (file_for_a_checkpoint, "1000001-step-12/state.json: cannot"),
    "a checkpoint of a newer version": (newer_format, "format 2, this version reads 1"),
    "a checkpoint without a version": (no_format, "format None, this version reads 1"),
    "a checkpoint of a log that cannot be": (odd_length, "the file was changed since"),
    "a torn configuration": (torn_configuration, "config.toml:"),
    "an edited configuration": (edited_configuration, "other values of training.batch_size"),
    "no configuration": (no_configuration, "is not a run folder"),
    "a log that is a link": (linked_log, "metrics.jsonl: is a link"),
    "other data": (other_rows, "the rows are divided in another way"),
    "a damaged identity": (damaged_identity, "data.json: not the identity"),
    "a full disk": (full_disk, "config.toml"),
    "a checkpoint of another model": (another_model, "not the state of this run"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_resume_changes_no_byte(kind: str) -> None:
    spoil, message = REFUSED[kind]
    folder = train()
    flags = spoil(folder)
    before = content(folder)
    for change in (["--training.epochs", "9"], []):
        with pytest.raises((InputError, OSError), match=message):
            train(*change, *flags, resume=str(folder))
        assert content(folder) == before


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
def test_a_log_that_is_torn_at_any_byte_goes_on_whole(name: str) -> None:
    expected = (train("--training.epochs", "5") / "metrics.jsonl").read_bytes()
    saved = train("--training.epochs", "4")
    lines = (saved / name).read_bytes().splitlines(keepends=True)
    if name == "metrics.jsonl":
        lines.append(b'{"epoch": 5, "step": 40, "train/loss": 0.1}\n')
    for size in range(0, len(lines[-1]), 3):
        folder = saved.with_name("a-9")
        shutil.copytree(saved, folder)
        (folder / name).write_bytes(b"".join(lines[:-1]) + lines[-1][:size])
        train("--training.epochs", "5", resume=str(folder))
        assert (folder / "metrics.jsonl").read_bytes() == expected
        events = [record["event"] for record in read_log(folder / "events.jsonl")]
        ended = ["end"] if name == "metrics.jsonl" else []
        assert events == ["start", "checkpoint", *ended, "resume", "end"]
        shutil.rmtree(folder)


def test_the_loser_of_a_race_is_told_and_changes_nothing() -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = train()
    damaged(folder)  # what the winner has just removed must not be what the loser complains of
    before = content(folder)
    with (folder / "metrics.jsonl").open("ab") as winner:
        fcntl.flock(winner, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is running it"):
            train("--training.epochs", "9", resume=str(folder))
    assert content(folder) == before


def test_a_torn_event_is_cut_before_the_next_one() -> None:
    folder = train()
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"time": 12')
    train("--training.epochs", "4", resume=str(folder))
    events = [record["event"] for record in read_log(folder / "events.jsonl")]
    assert events == ["start", "checkpoint", "end", "resume", "end"]


def test_what_killed_runs_left_is_removed(place: Path) -> None:
    folder = train()
    for name in (".model.safetensors-1", ".config.toml-7", ".loss.png-3", ".report.html-2"):
        (folder / name).write_bytes(b"half")
    for age, name in ((0, ".a-young"), (10_000, ".a-old")):
        (place / "runs" / name).mkdir()
        then = os.stat(place / "runs" / name).st_mtime - age
        os.utime(place / "runs" / name, (then, then))
    train("--training.epochs", "4", resume=str(folder))
    assert not list(folder.glob(".*"))
    train()
    assert [path.name for path in (place / "runs").glob(".*")] == [".a-young"]


def test_checkpoints_beyond_a_million_are_found_in_order() -> None:
    folder = train("--checkpoint.every_steps", "3", "--checkpoint.keep", "2")
    older, newest = checkpoints_in(folder)
    older.rename(older.with_name("999999-step-6"))
    newest = newest.rename(newest.with_name("1000000-step-9"))
    assert checkpoints_in(folder)[-1] == newest
    train("--training.epochs", "4", resume=str(folder))
    assert serial(checkpoints_in(folder)[-1]) > 1_000_000


# --- whose code runs ---------------------------------------------------------------------------

MODULE = """
from pathlib import Path
import nanotorch as nt
Path("imported").touch()
class Net(nt.nn.Linear):
    pass
"""
OWN = ["--model.name", "module", "--model.module", "net_of_test:Net"]


@pytest.fixture
def foreign(place: Path) -> Iterator[Path]:
    """A run with a module of its own, as it comes from somebody else: nothing is imported yet."""
    (place / "net_of_test.py").write_text(MODULE)
    folder = train(*OWN)
    shutil.rmtree(place / "state")
    forget(place)
    yield folder
    sys.modules.pop("net_of_test", None)


def forget(place: Path) -> None:
    sys.modules.pop("net_of_test", None)
    (place / "imported").unlink(missing_ok=True)


OPENED = {
    "predict": ["predict", "RUN", "iris"],
    "evaluate": ["evaluate", "RUN"],
    "go on": ["train", "--resume", "RUN", "--quiet"],
    "train again": ["train", "RUN/config.toml", "--quiet"],
}


@pytest.mark.parametrize("way", OPENED)
def test_opening_somebodys_run_runs_no_code_until_it_is_trusted(
    way: str, place: Path, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("RUN", str(foreign)) for word in OPENED[way]]
    assert call(*words) == 2
    assert not (place / "imported").exists()
    assert "--trust-code" in capsys.readouterr().err
    assert call(*words, "--trust-code") == 0
    assert (place / "imported").exists()
    assert call(*words) == 0  # exactly this code is remembered
    forget(place)
    (place / "net_of_test.py").write_text(MODULE + "# changed\n")
    assert call(*words) == 2
    assert not (place / "imported").exists()


def test_a_changed_module_beside_the_trusted_one_asks_for_trust_anew(place: Path) -> None:
    (place / "layers_of_test").mkdir()
    (place / "layers_of_test" / "__init__.py").write_text("")
    (place / "layers_of_test" / "inner.py").write_text("from . import deep as deep")
    (place / "layers_of_test" / "deep.py").write_text("")
    (place / "net_of_test.py").write_text("import json\nfrom layers_of_test import inner\n")
    before = trust.digest("net_of_test:Net")
    for name in ("net_of_test.py", "layers_of_test/inner.py", "layers_of_test/deep.py"):
        source = (place / name).read_text()
        (place / name).write_text(source + "# changed\n")
        assert trust.digest("net_of_test:Net") != before, name
        (place / name).write_text(source)
    assert trust.digest("net_of_test:Net") == before


def test_what_lies_compiled_beside_a_trusted_source_is_not_run(place: Path, foreign: Path) -> None:
    """Python would take compiled code that says it belongs to a source of this time and size."""
    (place / "evil.py").write_text("raise SystemExit('what was not trusted')")
    compiled = Path(importlib.util.cache_from_source(str(place / "net_of_test.py")))
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(place / "evil.py"), str(compiled), invalidation_mode=mode)
    assert call("evaluate", str(foreign), "--trust-code") == 0
    assert not any(isinstance(finder, trust.SourceFinder) for finder in sys.meta_path)


def test_a_torn_record_of_trust_takes_nothing_else_with_it(place: Path, foreign: Path) -> None:
    assert call("evaluate", str(foreign), "--trust-code") == 0
    record = place / "state" / "nanotorch" / "trusted-code"
    mark = trust.digest("net_of_test:Net")
    for torn in (mark[:20].encode(), b"\xff\0\xff"):
        record.write_bytes(torn)
        assert call("evaluate", str(foreign)) == 2
        assert call("evaluate", str(foreign), "--trust-code") == 0
        assert call("evaluate", str(foreign)) == 0


def test_a_run_of_ones_own_needs_no_word_of_trust(place: Path, foreign: Path) -> None:
    train(*OWN)
    assert call("evaluate", str(foreign)) == 0


def test_a_file_in_the_working_directory_hides_no_installed_module(place: Path) -> None:
    (place / "fractions.py").write_text("raise SystemExit('the wrong file')")
    code = (
        "import sys; sys.path = [p for p in sys.path if p]\n"
        "from nanotorch.training.trust import append_working_directory as append\n"
        "append(); import fractions; print(fractions.Fraction(1, 2))"
    )
    script = place / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "1/2\n"


@pytest.mark.parametrize("name", ["json", "numpy", "random", "argparse", "csv", "tempfile", "enum"])
def test_the_command_runs_no_file_of_the_working_directory(name: str, place: Path) -> None:
    (place / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for command in (["-m", "nanotorch"], [str(Path(__file__).parent.parent / "train.py")]):
        result = subprocess.run(
            [sys.executable, *command, "--help"], env=environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert "usage" in result.stdout.lower()


def test_no_file_stands_in_for_a_package_that_is_not_installed(place: Path) -> None:
    folder = train()
    missing = [
        name
        for name in ("cupy", "tensorboardX", "mpi4py", "ml_dtypes", "polars", "IPython", "onnx")
        if importlib.util.find_spec(name) is None
    ]
    for name in (*missing, "made_up"):
        (place / f"{name}.py").write_text("from pathlib import Path\nPath('imported').touch()")
    trust.digest("made_up:Net")  # reads, and lets nothing be found that was not before
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    words = ["train", "--resume", str(folder), "--training.epochs", "4", "--device", "auto"]
    for command in (words, ["doctor"]):
        subprocess.run(
            [sys.executable, "-m", "nanotorch", *command], env=environment, capture_output=True
        )
    assert not (place / "imported").exists()
    assert len(read_log(folder / "metrics.jsonl")) == 4
    assert str(place) not in sys.path


# --- readers -----------------------------------------------------------------------------------


def array_file(header: str) -> bytes:
    body = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"
DAMAGED: dict[str, tuple[str, bytes]] = {
    "parquet that panics": ("d.parquet", b"PAR1" + b"\xff" * 40 + b"\x10\0\0\0PAR1"),
    "an array of a broken header": ("d.npy", array_file("{'descr': '<f8', ((")),
    "an array of a huge shape": ("d.npy", array_file(HEADER % f"{10**30}, 2")),
    "an array larger than its file": ("d.npy", array_file(HEADER % "1000000, 100")),
    "an array of negative size": ("d.npy", array_file(HEADER % "-2, 2")),
    "an array of objects": ("d.npy", array_file(HEADER.replace("<f8", "|O") % "2, 2")),
    "an array of values without bytes": (
        "d.npy",
        array_file(HEADER.replace("<f8", "|S0") % 10**12),
    ),
    "an array beside an empty dimension": ("d.npy", array_file(HEADER % f"0, {10**9}")),
    "an array of no columns": ("d.npy", array_file(HEADER % "9, 0")),
    "an array of a deep header": ("d.npy", array_file(HEADER % ("-" * 9000 + "1, 2"))),
    "svmlight of a huge number": ("d.svm", b"1 99999999999999999999:1\n0 1:1\n"),
    "a sparse bomb": ("d.svm", b"1 2000000000:1\n0 1:1\n"),
    "svmlight of text": ("d.svm", b"a b c\n"),
    "no model at all": ("m.safetensors", b"\xff" * 64),
}


def archive(**arrays: Any) -> bytes:
    np.savez_compressed("made.npz", **arrays)
    return Path("made.npz").read_bytes()


def archive_of(**members: bytes) -> bytes:
    with zipfile.ZipFile("made.npz", "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return Path("made.npz").read_bytes()


def bytes_of(array: Any) -> bytes:
    np.save("made.npy", array)
    return Path("made.npy").read_bytes()


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile("made.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("d.csv", content)
    return Path("made.zip").read_bytes()


def many_equal_rows() -> bytes:
    polars = pytest.importorskip("polars")
    column = polars.repeat(1, 2**25, eager=True, dtype=polars.Int8)
    polars.DataFrame({"x": column, "y": column}).write_parquet("made.parquet")
    return Path("made.parquet").read_bytes()


EMPTY_TEXTS = HEADER.replace("<f8", "<U0") % 10**12


def model(metadata: dict[str, str]) -> bytes:
    return safetensors.numpy.save({"weight": np.zeros((1, 2), np.float32)}, metadata)


def facts(**changes: Any) -> bytes:
    described = {
        "model": {"name": "logistic", "bias": True},
        "task": "binary",
        "classes": ["a", "b"],
        "targets": ["y"],
        "columns": [{"name": "x"}, {"name": "z"}],
        "threshold": 0.5,
        "dtype": "float32",
    }
    arrays = {f"standardization.{name}": np.ones(2) for name in ("mean", "scale")}
    arrays["weight"] = np.zeros((1, 2), np.float32)
    return safetensors.numpy.save(arrays, {"nanotorch": json.dumps({**described, **changes})})


MORE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "an archive of single numbers": ("d.npz", lambda: archive(features=3.0, target=1)),
    "an archive of objects": ("d.npz", lambda: archive(features=np.eye(2), target=["a", None])),
    "an archive of empty texts": (
        "d.npz",
        lambda: archive_of(features=bytes_of(np.eye(2)), target=array_file(EMPTY_TEXTS)),
    ),
    "an archive without rows": ("d.npz", lambda: archive(X=np.zeros((0, 3)), y=np.zeros(0))),
    "a parquet file of millions of equal rows": ("d.parquet", many_equal_rows),
    "a packed file of zeros": ("d.csv.bz2", lambda: bz2.compress(bytes(2**27), 1)),
    "a packed file of one long row": ("d.csv.gz", lambda: gzip.compress(b"1," * 2**26, 1)),
    "a zip file of many equal rows": ("d.zip", lambda: zipped(b"x,y\n" + b"0,1\n" * 2**25)),
    "an archive of cubes": ("d.npz", lambda: archive(X=np.eye(2), y=np.zeros((2, 2, 2)))),
    "metadata that is no JSON": ("m.safetensors", lambda: model({"nanotorch": "{"})),
    "metadata that is a list": ("m.safetensors", lambda: model({"nanotorch": "[1]"})),
    "metadata nested deeply": ("m.safetensors", lambda: model({"nanotorch": "[" * 100_000})),
    "no columns": ("m.safetensors", lambda: facts(columns=3)),
    "a dtype that is none": ("m.safetensors", lambda: facts(dtype="system")),
    "a model of unknown kind": ("m.safetensors", lambda: facts(model={"name": "tree"})),
    "a model larger than its file": (
        "m.safetensors",
        lambda: facts(model={"name": "mlp", "hidden": [10**9, 10**9]}),
    ),
    "keys of a file that are none": ("m.safetensors", lambda: facts(reading={"delimeter": ";"})),
    "guesses that are none": ("m.safetensors", lambda: facts(guesses={"header": []})),
    "classes of half a character": ("m.safetensors", lambda: facts(classes=["a", "\ud800"])),
    "classes that are none": ("m.safetensors", lambda: facts(classes=None)),
    "deep TOML": ("c.toml", lambda: b"a = " + b"[" * 50_000),
    "deep tables of TOML": ("c.toml", lambda: b"a = " + b"{a=" * 50_000),
    "a key of many parts": ("c.toml", lambda: b".".join([b"a"] * 50_000) + b" = 1"),
    "a header of many parts": ("c.toml", lambda: b"[" + b" . ".join([b"a"] * 50_000) + b"]"),
    "a number of many digits": ("c.toml", lambda: b"seed = " + b"1" * 5000),
    "a number of many digits in hex": ("c.toml", lambda: b"seed = 0x" + b"1" * 5000),
    "a value without quotes, and many spaces": ("c.toml", lambda: b"a = b" + b" " * 500_000 + b'"'),
    "a configuration of megabytes": ("c.toml", lambda: b"# \n" * 2**20),
    "a configuration of unknown keys": (
        "c.toml",
        lambda: b"".join(b"key%d = 1\n" % number for number in range(20_000)),
    ),
}


LARGE = [kind for kind in MORE if kind.endswith(("equal rows", "of zeros", "one long row"))]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k in LARGE)) for k in (*DAMAGED, *MORE)],
)
def test_a_damaged_file_ends_in_one_line(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    name, body = DAMAGED.get(kind) or MORE[kind]
    Path(name).write_bytes(body() if callable(body) else body)
    if name.endswith((".svm", ".parquet")):
        pytest.importorskip("sklearn" if name.endswith(".svm") else "polars")
    start = time.process_time()
    command = {
        "m.safetensors": ["predict", name, "iris"],
        "c.toml": ["train", name],
    }.get(name, ["train", "a.toml", "--data.source", name, *QUICK])
    assert call(*command) == 2
    error = capfd.readouterr().err
    assert name in error
    assert len(error.splitlines()) <= (22 if kind.endswith("unknown keys") else 1)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("name", ["d.zip", "d.csv.gz", "d.csv.xz"])
def test_packed_rows_to_predict_that_are_damaged_end_in_one_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_bytes({"d.zip": b"PK\x03\x04", "d.csv.gz": b"\x1f\x8b\x08"}.get(name, b"\xfd"))
    assert call("predict", str(train()), name) == 2
    assert capfd.readouterr().err.splitlines() == [
        f"nanotorch predict: {name}: not a table of text, or a damaged one"
    ]


@pytest.mark.parametrize("file", ["data.json", "train_rows.npy", "state.json"])
def test_a_damaged_file_of_a_run_ends_in_one_line(
    file: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = train()
    rows = b"".join(b"%d,%d,%d,%d,a\n" % (i, i % 3, i % 5, i % 7) for i in range(9))
    Path("rows.csv").write_bytes(b"a,b,c,d,target\n" + rows)
    if file == "data.json":
        values = json.loads((folder / file).read_text())
        del values["parts"]
        (folder / file).write_text(json.dumps(values))
        words = ["evaluate", str(folder)]
    elif file == "train_rows.npy":
        (folder / file).write_bytes(array_file(HEADER % 10**12))
        words = ["evaluate", str(folder), "iris"]
    else:
        path = checkpoints_in(folder)[-1] / file
        body = json.dumps({"format": 1, "files": ["model.safetensors"], "log_bytes": 0}).encode()
        path.write_bytes(body + f"\n{sha256(body)}\n".encode())
        words = ["train", "--resume", str(folder)]
    assert call(*words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert file in line


@pytest.mark.parametrize(
    "cell", ["5" * 10**6 + "y", "1,000" * 10**5 + "y", "1." + "0" * 10**6 + "-"]
)
def test_a_long_cell_takes_time_like_its_length(cell: str) -> None:
    start = time.process_time()
    assert math.isnan(Numbers().each(cell))
    assert not is_number(cell)
    assert date_format([cell]) is None
    assert time.process_time() - start < 1


LONG_CONFIGURATIONS = {
    "a word within a text": '"a\\"b" = """\n' + "a" * 10**5 + '!\n"""\n',
    "quotes that are not closed": "a = '''\n" + '"' + '\\"' * 4 * 10**5 + "\n'''\n",
    "many keys": "".join(f"a.b{number} = 1\n" for number in range(40_000)),
}


@pytest.mark.parametrize("kind", LONG_CONFIGURATIONS)
def test_the_lines_of_keys_take_time_like_the_text(kind: str) -> None:
    start = time.process_time()
    key_lines(LONG_CONFIGURATIONS[kind])
    assert time.process_time() - start < 2


def test_unrelated_arrays_of_an_archive_are_not_read() -> None:
    x = np.random.default_rng(0).random((30, 2))
    np.savez("d.npz", features=x, target=np.arange(30) % 2, notes=np.array([None]))
    assert read_table("d.npz").names == ["0", "1", "target"]


def test_unrelated_arrays_of_a_model_file_are_not_read() -> None:
    """One of them is of a kind that NumPy does not have, and would not fit into memory."""
    arrays = {"weight": np.ones((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
    content = safetensors.numpy.save(arrays)
    size = int.from_bytes(content[:8], "little")
    header, end = json.loads(content[8 : 8 + size]), len(content) - 8 - size
    header["other"] = {"dtype": "F8_E4M3", "shape": [2**36], "data_offsets": [end, end + 2**36]}
    text = json.dumps(header).encode()
    with Path("m.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + content[8 + size :])
        try:
            file.truncate(file.tell() + 2**36)
        except OSError:
            pytest.skip("the disk has no files with holes")
    model = nt.nn.Linear(4, 3)
    assert start_from(model, "m.safetensors", []) == ["weight", "bias"]
    assert nt.equal(model.weight, nt.ones(3, 4))
    with pytest.raises(
        InputError, match=r"has no '0\.weight'; it holds bias, other, weight"
    ) as refusal:
        start_from(nt.nn.Sequential(model), "m.safetensors", [])
    assert len(refusal.value.lines) == 2


def test_the_lines_of_keys_are_found_past_long_values() -> None:
    long = "\n".join([*("  [1, 2],  # ]" for _ in range(20_000))])
    text = f'a = [\n{long}\n]\n[b]\nc = """\n[d]\n"""\ne = "]"\n'
    lines = key_lines(text)
    assert lines[("b",)] == 20_003
    assert lines[("b", "c")] == 20_004
    assert lines[("b", "e")] == 20_007
    assert ("d",) not in lines


def test_files_that_are_damaged_anyhow_end_in_one_line() -> None:
    """A few of the files that scripts/fuzz_files.py makes by the ten thousand."""
    assert damage.run(count=150, seed=0, seconds=5.0, quiet=True) == []


def test_a_line_of_any_length_names_the_columns() -> None:
    names = ["y", *(f"gene_{number:09}" for number in range(20_000))]
    rows = "".join(f"{','.join([str(i % 2)] + [str(i)] * 20_000)}\n" for i in range(5))
    Path("d.csv").write_text(",".join(names) + "\n" + rows)
    assert read_table("d.csv").names == names
    start = time.process_time()
    all_rows = ["--data.validation", "0", "--data.test", "0", "--data.target", "y"]
    folder = train("--data.source", "d.csv", *all_rows)
    assert time.process_time() - start < 10  # 60 seconds where each name is looked for in a list
    assert len((folder / "coefficients.csv").read_text().splitlines()) == 1 + 1 + 20_000


def test_numbers_too_large_for_a_mean_end_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Path("d.csv").write_text("x,y\n" + "1e308,0\n1.5e308,1\n" * 30)
    assert call("train", "a.toml", "--data.source", "d.csv", *QUICK) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "'x': its numbers are too large to have a mean" in line


# --- text from files ---------------------------------------------------------------------------


def test_control_characters_of_files_are_shown_as_escapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plain("a\x1b[31mb\u202e\x07\n") == "a\\x1b[31mb\\u202e\\x07\\n"
    assert plain("größe 数") == "größe 数"
    name = "\x1b]0;owned\x07"
    rows = "".join(f"{i % 5},{i % 7 or ''},{i % 2}\n" for i in range(40))
    Path("d.csv").write_text(f"{name},b,y\n{rows}")
    call("train", "a.toml", "--data.source", "d.csv", "--data.missing", "mean", *QUICK)
    call("train", "a.toml", "--data.source", "d.csv", "--data.target", "z", *QUICK)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b]0;owned\\x07" in shown.err


@pytest.mark.parametrize(
    "cell, safe",
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-x", "'-x"),
        ("@a", "'@a"),
        ("\tx", "'\tx"),
        ("-1.5", "-1.5"),
        ("+3", "+3"),
        ("\n=1", "'\n=1"),
        ("＝1+1", "'＝1+1"),
        ("-inf", "-inf"),
        ("-1e-300", "-1e-300"),
        ("-2+3", "'-2+3"),
        ("cat", "cat"),
        ("", ""),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_guarded(cell: str, safe: str) -> None:
    assert guarded_cell(cell) == safe


def test_predictions_are_guarded_unless_told_otherwise() -> None:
    rows = "".join(f"{i % 4},{'=SUM(A1)' if i % 4 > 1 else 'b'}\n" for i in range(60))
    Path("d.csv").write_text(f"x,y\n{rows}")
    folder = str(train("--data.source", "d.csv", "--optimizer.lr", "1.0"))
    for flags, label in (([], "'=SUM(A1)"), (["--unguarded"], "=SUM(A1)")):
        assert call("predict", folder, "d.csv", "--output", f"p{len(flags)}.csv", *flags) == 0
        written = csv.DictReader(Path(f"p{len(flags)}.csv").read_text().splitlines())
        assert {row["predicted"] for row in written} == {label, "b"}


def test_coefficients_and_epochs_are_guarded_and_keep_their_numbers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = "".join(f"{i % 4 - 1},{i * i % 7},{'=b' if i * i % 5 > 1 else 'a'}\n" for i in range(60))
    Path("d.csv").write_text(f"=cmd,@x,y\n{rows}")
    folder = train("--data.source", "d.csv", "--optimizer.lr", "0.5")
    written = list(csv.DictReader((folder / "coefficients.csv").read_text().splitlines()))
    assert [row["term"] for row in written] == ["(intercept)", "'=cmd", "'@x"]
    assert any(float(row["coefficient"]) < 0 for row in written)
    assert not any("'" in row["coefficient"] for row in written)
    record = {"epoch": 1, "=cmd": -1.5, "note": "+1+cmd", "gap": None}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    capsys.readouterr()
    for flags in ([], ["--output", "epochs.csv"]):
        assert call("export-csv", str(folder), *flags) == 0
    expected = "epoch,'=cmd,note,gap\n1,-1.5,'+1+cmd,\n"
    assert capsys.readouterr().out == Path("epochs.csv").read_text() == expected


def test_a_terminal_is_shown_no_control_characters_of_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    label = "\x1b[31mred"
    rows = "".join(f"{i % 4},{label if i % 4 > 1 else 'b'}\n" for i in range(60))
    Path("d.csv").write_text(f"x,y\n{rows}")
    folder = str(train("--data.source", "d.csv", "--optimizer.lr", "1.0"))
    record = json.dumps({"epoch": 1, label: label})
    capsys.readouterr()
    for command in (["predict", folder, "d.csv"], ["export-csv", folder]):
        (Path(folder) / "metrics.jsonl").write_text(record + "\n")
        assert call(*command) == 0
        assert label in capsys.readouterr().out  # as it is, in a file or a pipe
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda: True)
            assert call(*command) == 0
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert "\\x1b[31mred" in shown


# --- power loss --------------------------------------------------------------------------------


def problems(folder: Path, saved: bool) -> list[str]:
    """What is torn or lost in the runs of a folder after a crash."""
    wrong = []
    runs = [path for path in folder.glob("*") if not path.name.startswith(".")]
    whole = False
    for run in runs:
        try:
            load(run / "config.toml")
            size = sum(len(json.dumps(r)) + 1 for r in read_log(run / "metrics.jsonl"))
            for path in checkpoints_in(run):
                if load_checkpoint(path).log_bytes > size:
                    wrong.append(f"{path}: the log is shorter than when it was saved")
                whole = True
            if (run / "model.safetensors").exists():
                read_model_file(run / "model.safetensors")
            if (run / "summary.json").exists():
                json.loads((run / "summary.json").read_text())
        except (InputError, ValueError) as error:
            wrong.append(str(error))
    return wrong if whole or not saved else [*wrong, "a checkpoint that was saved is gone"]


def crashes(place: Path, monkeypatch: pytest.MonkeyPatch, dropped: str | None) -> list[str]:
    """Train, and look at what every crash on the way could have left."""
    disk = Disk(place / "runs", dropped)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        train("--checkpoint.every_epochs", "1", "--checkpoint.keep", "1", "--training.epochs", "2")
    assert len(disk.operations) > 40
    wrong: list[str] = []
    for state, saved in disk.states(place / "crashed"):
        wrong += problems(state, saved)
    return wrong


def test_no_crash_leaves_anything_torn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crashes(place, monkeypatch, None) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "dropped",
    [
        r"\.writing-[^/]*/.*",  # the files of a checkpoint
        r"\.writing-[^/]*",  # their names
        r"checkpoints",  # the name of the checkpoint
        r"a-1",  # the name of the folder of checkpoints
        r"metrics\.jsonl",
        r"\.model\.safetensors-.*",
        r"\.summary\.json-.*",
        r"\.a-[^/]*/config\.toml",
        r"runs",  # the name of the run folder
    ],
)
def test_every_sync_is_needed(dropped: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert crashes(place, monkeypatch, dropped)


def with_config(folder: Path, version: int) -> None:
    request = read_request(["a.toml", "--training.epochs", str(version + 1)])
    replace_config(folder, request.configs[0], changed=True)


def with_model(folder: Path, version: int) -> None:
    content = ModelFile({"weight": np.full((2, 3), version)}, facts={"version": version})
    write_model_file(folder / "model.safetensors", content)


def with_tensors(folder: Path, version: int) -> None:
    nt.save({"w": nt.full((2, 3), version)}, folder / "w.pt")
    nt.save({"w": nt.full((2, 3), version)}, folder / "w.safetensors")


def with_predictions(folder: Path, version: int) -> None:
    run = finished_run()
    for name in (
        ("rows.csv", "rows.parquet") if importlib.util.find_spec("polars") else ["rows.csv"]
    ):
        wishes = Wishes(threshold=None, keep=["target"] * version, force=True)
        predict_file(run / "model.safetensors", "iris", folder / name, wishes=wishes)


def with_export(folder: Path, version: int) -> None:
    export_run(finished_run(str(version + 1)), "torch", folder / "model.pt", force=True)


def finished_run(epochs: str = "1") -> Path:
    return train("--training.epochs", epochs, "--name", f"run{epochs}")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "the configuration": with_config,
    "a model": with_model,
    "tensors": with_tensors,
    "predictions": with_predictions,
    "an exported model": with_export,
}


def harm(
    write: Callable[[Path, int], None], dropped: str | None, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Which files a crash could leave as neither the old nor the new ones, or lose at last."""
    folder = Path("written").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder, 0)
    old, disk = content(folder), Disk(folder, dropped)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        write(folder, 1)
    new = content(folder)
    assert old.keys() == new.keys()
    assert all(old[name] != new[name] for name in new)
    wrong = []
    for state, _ in disk.states(Path("crashed").absolute()):
        found = content(state)
        wrong += [name for name in new if found.get(name) not in (old[name], new[name])]
    last = content(disk.synced(Path("crashed").absolute()))
    return wrong + [f"{name} lost" for name in new if last.get(name) != new[name]]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_crash_leaves_the_old_file_or_the_new_one(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert harm(WRITERS[kind], None, monkeypatch) == []
    assert harm(WRITERS[kind], r"\..*", monkeypatch)  # without the sync of a file, or of its folder
    assert harm(WRITERS[kind], r"written", monkeypatch)


def test_a_crash_leaves_no_converted_copy_with_the_notes_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file that is read changes back and forth, and so does the way in which it is read."""
    monkeypatch.setattr(text_files, "LARGE", 1)
    folder = Path("written").absolute()
    folder.mkdir()
    contents = ["a;b\n1;2\n3;4\n", "a;b\n5;6\n7;8\n"]

    def values(folder: Path, version: int) -> Any:
        (folder / "d.csv").write_text(contents[version])
        return read_text_table(folder / "d.csv", Reading(source="")).values.tolist()

    def after_crash(state: Path, version: int) -> Any:
        """What is read where the disk has kept the time of the copy as well."""
        shutil.rmtree("looked at", ignore_errors=True)
        copy = Path(shutil.copytree(state, "looked at")) / name
        if copy.exists():
            time_ = times[0] if copy.read_bytes() == old else times[1]
            os.utime(copy, ns=(time_, time_))
        return values(copy.parent, version)

    name = ".d.csv.float64.npy"
    for dropped in (None, r"\.d\.csv-[^.]*"):
        assert values(folder, 0) == [[1, 2], [3, 4]]
        old, times = (folder / name).read_bytes(), [(folder / name).stat().st_mtime_ns]
        disk = Disk(folder, dropped)
        with monkeypatch.context() as patch:
            disk.watch(patch)
            values(folder, 1)
        times.append((folder / name).stat().st_mtime_ns)
        states = [
            after_crash(state, version)
            for state, _ in disk.states(Path("crashed").absolute())
            for version in (0, 1)
        ]
        right = states == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]] * (len(states) // 2)
        assert right is (dropped is None), dropped


def test_a_copy_that_another_process_put_into_its_place_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_files, "LARGE", 1)
    for name, rows in (("d.csv", "1,2"), ("e.csv", "3,4")):
        Path(name).write_text(f"a,b\n{rows}\n")
        read_text_table(Path(name), Reading(source=""))
    Path(".e.csv.float64.npy").replace(".d.csv.float64.npy")
    assert read_text_table(Path("d.csv"), Reading(source="")).values.tolist() == [[1, 2]]


def test_a_crash_leaves_no_mark_of_trust_that_nobody_gave(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "state" / "nanotorch"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (place / f"{name}_of_test.py").write_text("")
    trust.trust(["one_of_test:Net"])
    disk = Disk(folder)
    with monkeypatch.context() as patch:
        disk.watch(patch)
        trust.trust(["two_of_test:Net"])
    marks = {trust.digest(f"{name}_of_test:Net").encode() for name in ("one", "two")}
    for state, _ in disk.states(place / "crashed"):
        lines = (state / "trusted-code").read_bytes().split()
        assert {line for line in lines if len(line) == 64} <= marks
        assert trust.digest("one_of_test:Net").encode() in lines


def test_all_that_a_run_says_is_on_the_disk_at_its_end(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(place / "runs")
    with monkeypatch.context() as patch:
        disk.watch(patch)
        folder = train("--output.curves", "true", "--output.report", "true")
    files = {name: body for name, body in content(folder).items() if name != "events.jsonl"}
    operations = disk.operations
    for dropped in (None, *files):
        part = rf".*/\.?{re.escape(Path(dropped).name)}(-\d+)?" if dropped else "nothing"
        disk.operations = [
            (operation, argument)
            for operation, argument in operations
            if operation != "sync" or not re.fullmatch(part, argument)
        ]
        left = content(disk.synced(place / "crashed") / folder.name)
        lost = [name for name, body in files.items() if left.get(name) != body]
        assert (dropped in lost) if dropped else not lost
