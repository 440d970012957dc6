"""Files of every kind that a reader opens, damaged at random: each must end in one plain line."""

from __future__ import annotations

import bz2
import contextlib
import faulthandler
import gzip
import importlib.util
import io
import json
import lzma
import os
import pickle
import random
import re
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.training import fit, read_request
from nanotorch.training.checkpoint import checkpoints_in, load_checkpoint
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Data
from nanotorch.training.curves import chart_of_run
from nanotorch.training.data.identity import known_rows, marks_in, require_same
from nanotorch.training.data.prepare import prepare
from nanotorch.training.errors import InputError, plain
from nanotorch.training.evaluation import evaluate_file
from nanotorch.training.exporting import export_run
from nanotorch.training.files import sha256
from nanotorch.training.models import start_from
from nanotorch.training.prediction import Predictor, predict_file
from nanotorch.training.run import Run
from nanotorch.training.run_folder import read_log
from nanotorch.training.run_state import restore_state
from nanotorch.training.signals import StopSignals

Read = Callable[[Path], object]
MEMORY = 600  # MB that all readers together may take on top
LINES = 22  # of a configuration, whose mistakes are listed


def _data(path: Path) -> None:
    prepare(Data(source=str(path), cache=False, missing="mean"), "logistic", 0)


def samples(folder: Path) -> dict[str, tuple[bytes, Read]]:
    """A good file of each kind by its name, and what reads it."""
    files = {**_tables(folder), **_of_a_run(folder)}
    tensors = {"w": nt.eye(3), "b": nt.arange(4), "plain": [1, (2.0, "x"), {"k": None}]}
    nt.save(tensors, folder / "saved.pt")
    nt.save({"w": nt.eye(3), "b": nt.arange(4)}, folder / "saved.safetensors")
    for name in ("saved.pt", "saved.safetensors"):
        files[name] = (folder / name).read_bytes(), nt.load
    return files


def _tables(folder: Path) -> dict[str, tuple[bytes, Read]]:
    random_ = np.random.default_rng(0)
    x, y = random_.standard_normal((40, 3)).round(3), np.arange(40) % 2
    rows = [f"{a},{b},{c},{t}" for (a, b, c), t in zip(x, y, strict=True)]
    text = "\n".join(["a,b,c,y", *rows, ""]).encode()
    mixed = "\n".join(["a,b,y", *(f'{a},"w, {t}",{t}' for (a, _, _), t in zip(x, y)), ""])
    lines = [json.dumps({"a": a, "b": f"w{t}", "y": int(t)}) for (a, _, _), t in zip(x, y)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("numbers.csv", text)
    contents = {
        "numbers.csv": text,
        "tabs.tsv": text.replace(b",", b"\t"),
        "spaces.txt": text.replace(b",", b"  "),
        "mixed.csv": mixed.encode(),
        "wide.csv": mixed.encode("utf-16"),
        "packed.csv.gz": gzip.compress(text),
        "packed.csv.bz2": bz2.compress(text),
        "packed.csv.xz": lzma.compress(text),
        "packed.zip": packed.getvalue(),
    }
    if importlib.util.find_spec("sklearn"):
        words = "".join(f"{t} 1:{a} 2:{b}\n" for (a, b, _), t in zip(x, y))
        contents["lines.svm"] = contents["lines.libsvm"] = words.encode()
    np.save(folder / "array.npy", np.column_stack([x, y]))
    np.savez(folder / "arrays.npz", features=x, target=y)
    np.savez_compressed(folder / "packed.npz", X=x, y=y.astype(str))
    written = ["array.npy", "arrays.npz", "packed.npz"]
    if importlib.util.find_spec("polars"):
        import polars

        contents["lines.jsonl"] = "\n".join([*lines, ""]).encode()
        frame = polars.DataFrame({"a": x[:, 0], "b": [f"w{t}" for t in y], "y": y})
        frame.write_parquet(folder / "frame.parquet")
        frame.write_ipc(folder / "frame.arrow")
        frame.write_ipc(folder / "frame.feather", compression="lz4")
        written += ["frame.parquet", "frame.arrow", "frame.feather"]
    contents |= {name: (folder / name).read_bytes() for name in written}
    return {name: (content, _data) for name, content in contents.items()}


def _of_a_run(folder: Path) -> dict[str, tuple[bytes, Read]]:
    """The files of a run folder."""
    (folder / "a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 2\n')
    quick = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
    request = read_request([str(folder / "a.toml"), *quick, "--output.folder", str(folder)])
    finished = fit(request.configs[0], quiet=True)
    run, features = finished.folder, finished.data.train.features.values
    checkpoint = checkpoints_in(run)[-1]

    def resealed(path: Path) -> None:
        """A checkpoint of which the damaged file has its right digest."""
        values = json.loads(state)
        values["files"] = {path.name: sha256(path.read_bytes())}
        body = json.dumps(values).encode()
        (path.parent / "state.json").write_bytes(body + f"\n{sha256(body)}\n".encode())
        load_checkpoint(path.parent)

    again = Run(finished.config, finished.data, nt.device("cpu"), StopSignals())
    state = (checkpoint / "state.json").read_bytes().rstrip(b"\n").rpartition(b"\n")[0]

    def restored(path: Path) -> None:
        """A damaged state that has its right digest, beside the files of the checkpoint."""
        body = path.read_bytes()
        path.write_bytes(body + f"\n{sha256(body)}\n".encode())
        for file in checkpoint.glob("*.safetensors"):
            (path.parent / file.name).write_bytes(file.read_bytes())
        restore_state(again, load_checkpoint(path.parent))

    readers: dict[str, tuple[Path, Read]] = {
        "config.toml": (run, load),
        "model.safetensors": (run, Predictor.load),
        "metrics.jsonl": (run, read_log),
        "events.jsonl": (run, read_log),
        "drawn/metrics.jsonl": (run, lambda path: chart_of_run(path.parent)),
        "data.json": (run, lambda path: require_same(path.parent, finished.data.identity, False)),
        "train_rows.npy": (run, lambda path: known_rows(marks_in(path.parent), features)),
        "state.json": (checkpoint, lambda path: load_checkpoint(path.parent)),
        "sealed/training.safetensors": (checkpoint, resealed),
    }
    files = {
        name: ((place / Path(name).name).read_bytes(), read)
        for name, (place, read) in readers.items()
    }
    files["restored/state.json"] = state, restored
    rows = str(folder / "rows.csv")
    numbers = finished.data.train.features.values.tolist()
    names = ",".join([*finished.data.encoding.feature_names, finished.data.target.columns[0]])
    lines = [",".join([*map(str, row), finished.data.target.classes[0]]) for row in numbers]
    Path(rows).write_text("\n".join([names, *lines, ""]))
    for use, read in {
        "predicted": lambda path: predict_file(path, rows, None),
        "measured": lambda path: evaluate_file(path, rows),
        "torch": lambda path: export_run(path, "torch", None, force=True),
        "onnx": lambda path: export_run(path, "onnx", None, force=True),
    }.items():
        if use != "onnx" or importlib.util.find_spec("onnx"):
            files[f"{use}/model.safetensors"] = files["model.safetensors"][0], read
    files["started/model.safetensors"] = (
        files["model.safetensors"][0],
        lambda path: start_from(nt.nn.Linear(4, 3), str(path), []),
    )
    return files


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The content with one to four accidents, or something else in its place."""
    if dice.random() < 0.03:
        return dice.choice(OTHERS)(content)
    if dice.random() < 0.5 and (other := reworded(content, dice)):
        return other
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(10):
            case 0 if data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 20))
            case 3:
                del data[at : at + dice.randint(1, 40)]
            case 4:
                data[at:at] = data[at : at + dice.randint(1, 200)]
            case 5:
                data[at:at] = dice.choice(WORDS)
            case 6 if data:
                data[at % len(data)] = dice.choice(b"\0\n\r\",'[]{}:=9-\xff")
            case 7:
                end = at + dice.randint(1, 8)
                data[at:end] = dice.choice((b"\xff", b"\0", b"9")) * (end - at)
            case 8:  # a number of the header that is written out
                numbers = list(re.finditer(rb"\d+", data[:2000]))
                if numbers:
                    number = dice.choice(numbers)
                    data[number.start() : number.end()] = dice.choice(NUMBERS)
            case 9:  # a size or a place in binary
                width = dice.choice((2, 4, 8))
                value = dice.choice((2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 0))
                data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(data)


def reworded(content: bytes, dice: random.Random) -> bytes | None:
    """JSON, or the header of safetensors, that is whole, with values of other kinds in it."""
    length = int.from_bytes(content[:8], "little")
    is_header = 8 + length < len(content)
    text = content[8 : 8 + length] if is_header else content
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    facts = tree.get("__metadata__", {}).get("nanotorch") if is_header else None
    if facts is not None and dice.random() < 0.9:
        tree["__metadata__"]["nanotorch"] = json.dumps(_changed(json.loads(facts), dice))
    else:
        tree = _changed(tree, dice)
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :] if is_header else text


def _changed(tree: Any, dice: random.Random) -> Any:
    """The tree with one value in it changed, left out or of another kind."""
    if not isinstance(tree, dict | list) or not tree or dice.random() < 0.1:
        return dice.choice(VALUES)
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = dice.choice(keys)
    if dice.random() < 0.15:
        del tree[key]
    else:
        tree[key] = _changed(tree[key], dice)
    return tree


VALUES = (
    *(None, True, 0, -1, 2**31, 2**63, 10**40, 0.5, 1e308, float("nan"), float("-inf"), "", "x"),
    *("\x1b[31m", "float64", "\ud800", [], [[]], [None], [-1, 2**40], {}, {"name": "x"}),
    *({"$array": "x"}, {"$table": [[]]}, {"$table": [[[1], 2]]}, {"name": "mlp", "hidden": [4]}),
)
NUMBERS = (b"0", b"-1", b"1" * 9, b"9" * 19, b"9" * 40, b"2147483648", b"1e400", b"null", b"0.5")
OTHERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda content: b"",
    lambda content: bytes(len(content)),
    lambda content: b"\xff" * len(content),
    lambda content: content.decode("latin-1").encode("utf-16"),
    lambda content: content.decode("latin-1").encode("utf-32"),
    lambda content: content.decode("latin-1").encode("utf-8"),
    lambda content: content[::-1],
    lambda content: content * 3,
    gzip.compress,
)
WORDS = (
    *(b"1e999", b"nan", b"-inf", b"9" * 25, b'"', b"\x1b[31m", b"\xef\xbb\xbf", b"\r\n\r\n"),
    *(b"[" * 3000, b"{a=" * 2000, b"a." * 3000, b"," * 500, b"null", b"{}", b"1:1 99999999:1"),
)


def run(count: int, seed: int, seconds: float, quiet: bool = False) -> list[str]:
    """Read `count` damaged files; a line for each that took longer or ended otherwise than in one
    plain line."""
    dice = random.Random(seed)
    wrong: list[str] = []
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as place, silent[0], silent[1]:
        folder = Path(place)
        good = samples(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            name = dice.choice(list(good))
            content, read = good[name]
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damaged(content, dice))
            if not quiet:
                faulthandler.dump_traceback_later(4 * seconds, exit=True, file=sys.__stderr__)
            start, words = time.process_time(), None
            try:
                read(path)
            except (InputError, RuntimeError, pickle.UnpicklingError) as error:
                lines = str(error).split("\n")
                if len(lines) > (LINES if name.endswith(".toml") else 1):
                    words = f"{len(lines)} lines"
                elif name.startswith("saved") == isinstance(error, InputError):
                    words = f"{type(error).__name__}: {error}"
                elif plain(str(error).replace("\n", " ")) != str(error).replace("\n", " "):
                    words = f"control characters: {lines!r}"
            except BaseException as error:
                words = f"{type(error).__name__}: {error}"
            spent = time.process_time() - start
            if spent > seconds:
                words = f"took {spent:.1f} s"
            if words is not None:
                wrong.append(f"{name}, seed {seed}, file {number}: {words[:300]}")
                if not quiet:
                    kept = Path(tempfile.gettempdir(), f"damaged-{seed}-{number}-{path.name}")
                    kept.write_bytes(path.read_bytes())
                    os.write(2, f"{wrong[-1]}; kept as {kept}\n".encode())
        faulthandler.cancel_dump_traceback_later()
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MEMORY:
            wrong.append(f"the readers took {grown:.0f} MB")
    return wrong
