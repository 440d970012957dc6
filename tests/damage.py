"""Files of every kind that a reader opens, damaged at random: each must end in one plain line."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nanotorch.training import fit, read_request
from nanotorch.training.checkpoint import checkpoints_in, load_checkpoint
from nanotorch.training.config.reader import load
from nanotorch.training.config.sections import Data
from nanotorch.training.curves import chart_of_run
from nanotorch.training.data.prepare import prepare
from nanotorch.training.errors import InputError, plain
from nanotorch.training.prediction import Predictor
from nanotorch.training.run_folder import read_log

Read = Callable[[Path], object]
MEMORY = 600  # MB that all readers together may take on top
LINES = 22  # of a configuration, whose mistakes are listed


def _data(path: Path) -> None:
    prepare(Data(source=str(path), cache=False, missing="mean"), "logistic", 0)


def samples(folder: Path) -> dict[str, tuple[bytes, Read]]:
    """A good file of each kind by its name, and what reads it."""
    random_ = np.random.default_rng(0)
    x, y = random_.standard_normal((40, 3)).round(3), np.arange(40) % 2
    rows = [f"{a},{b},{c},{t}" for (a, b, c), t in zip(x, y, strict=True)]
    text = "\n".join(["a,b,c,y", *rows, ""])
    mixed = "\n".join(["a,b,y", *(f'{a},"w, {t}",{t}' for (a, _, _), t in zip(x, y)), ""])
    found: dict[str, tuple[bytes, Read]] = {
        "numbers.csv": (text.encode(), _data),
        "tabs.tsv": (text.replace(",", "\t").encode(), _data),
        "mixed.csv": (mixed.encode(), _data),
        "lines.svm": (
            "".join(f"{t} 1:{a} 2:{b}\n" for (a, b, _), t in zip(x, y)).encode(),
            _data,
        ),
    }
    np.save(folder / "array.npy", np.column_stack([x, y]))
    np.savez(folder / "arrays.npz", features=x, target=y)
    np.savez_compressed(folder / "packed.npz", X=x, y=y.astype(str))
    for name in ("array.npy", "arrays.npz", "packed.npz"):
        found[name] = ((folder / name).read_bytes(), _data)
    if importlib.util.find_spec("polars"):
        import polars

        frame = polars.DataFrame({"a": x[:, 0], "b": [f"w{t}" for t in y], "y": y})
        frame.write_parquet(folder / "frame.parquet")
        found["frame.parquet"] = ((folder / "frame.parquet").read_bytes(), _data)
    (folder / "a.toml").write_text('[data]\nsource = "iris"\n[training]\nepochs = 2\n')
    quick = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
    request = read_request([str(folder / "a.toml"), *quick, "--output.folder", str(folder)])
    run = fit(request.configs[0], quiet=True).folder
    found["config.toml"] = ((run / "config.toml").read_bytes(), load)
    found["model.safetensors"] = ((run / "model.safetensors").read_bytes(), Predictor.load)
    for log in ("metrics.jsonl", "events.jsonl"):
        found[log] = ((run / log).read_bytes(), read_log)
    checkpoint = checkpoints_in(run)[-1]
    state = (checkpoint / "state.json").read_bytes()
    found["state.json"] = (state, lambda path: load_checkpoint(path.parent))
    found["drawn/metrics.jsonl"] = (
        (run / "metrics.jsonl").read_bytes(),
        lambda path: chart_of_run(path.parent),
    )
    return found


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The content with one to four accidents."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(8):
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
    return bytes(data)


WORDS = (
    *(b"1e999", b"nan", b"-inf", b"9" * 25, b'"', b"\x1b[31m", b"\xef\xbb\xbf", b"\r\n\r\n"),
    *(b"[" * 3000, b"{a=" * 2000, b"a." * 3000, b"," * 500, b"null", b"{}", b"1:1 99999999:1"),
)


def run(count: int, seed: int, seconds: float, quiet: bool = False) -> list[str]:
    """Read `count` damaged files; a line for each that took longer or ended otherwise than in one
    plain line."""
    dice = random.Random(seed)
    wrong = []
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(place)
        good = samples(folder)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            name = dice.choice(list(good))
            content, read = good[name]
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damaged(content, dice))
            start, words = time.perf_counter(), None
            try:
                read(path)
            except InputError as error:
                lines = str(error).split("\n")
                if len(lines) > (LINES if name.endswith(".toml") else 1):
                    words = f"{len(lines)} lines"
                elif plain(str(error).replace("\n", " ")) != str(error).replace("\n", " "):
                    words = f"control characters: {lines!r}"
            except BaseException as error:
                words = f"{type(error).__name__}: {error}"
            spent = time.perf_counter() - start
            if spent > seconds:
                words = f"took {spent:.1f} s"
            if words is not None:
                wrong.append(f"{name}, seed {seed}, file {number}: {words[:300]}")
                if not quiet:
                    kept = Path(tempfile.gettempdir(), f"damaged-{seed}-{number}-{path.name}")
                    kept.write_bytes(path.read_bytes())
                    os.write(2, f"{wrong[-1]}; kept as {kept}\n".encode())
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MEMORY:
            wrong.append(f"the readers took {grown:.0f} MB")
    return wrong
