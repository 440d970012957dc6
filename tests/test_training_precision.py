"""`training.precision`: steps in 16 bits, with the numbers of float32 to three digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.training import fit, read_request
from nanotorch.training.errors import InputError
from nanotorch.training.model_file import read_model_file
from nanotorch.training.objective import Objective


def train(folder: Path, *flags: str) -> Any:
    fixed = ["--output.folder", str(folder), "--output.curves", "false", "--training.epochs", "3"]
    fixed += ["--output.report", "false", "--device", "cpu"]
    folder.mkdir(exist_ok=True)
    (folder / "a.toml").write_text('[data]\nsource = "digits"\n')
    request = read_request([str(folder / "a.toml"), *fixed, *flags])
    return fit(request.configs[0], quiet=True)


def losses(run: Any) -> list[float]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train/loss"] for line in lines]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_losses_are_those_of_float32_to_some_digits(precision: str, tmp_path: Path) -> None:
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes")
    flags = ["--penalty.l2", "0.01", "--training.clip_norm", "1.0"]
    whole = train(tmp_path / "float32", *flags)
    short = train(tmp_path / precision, *flags, "--training.precision", precision)
    assert losses(short) == pytest.approx(losses(whole), rel=0.02)
    assert losses(short) != losses(whole)
    weights = [read_model_file(r.folder / "model.safetensors").weights for r in (whole, short)]
    for name, array in weights[0].items():
        assert weights[1][name].dtype == np.float32
        np.testing.assert_allclose(weights[1][name], array, atol=0.02)


def test_the_forward_pass_of_steps_alone_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, seen = Objective.__call__, []

    def call(self: Any, outputs: Any, *rest: Any) -> Any:
        seen.append((outputs.dtype, nt.is_grad_enabled()))
        return ordinary(self, outputs, *rest)

    monkeypatch.setattr(Objective, "__call__", call)
    train(tmp_path, "--training.precision", "float16", "--training.epochs", "1")
    assert set(seen) == {(nt.float16, True), (nt.float32, False)}


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--training.dtype", "float64"], "float16 needs training.dtype float32, not float64"),
        (["--optimizer.name", "lbfgs", "--training.batch_size", "0"], "lbfgs searches in float32"),
    ],
)
def test_what_does_not_go_together_is_told(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(tmp_path, "--training.precision", "float16", *flags)
