"""The runner end to end: what it leaves behind, and that its numbers are the right ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import nanotorch as nt
from nanotorch.training import fit, read_request
from nanotorch.training.config import choices
from nanotorch.training.config.sections import Penalty
from nanotorch.training.data.batches import epoch_order
from nanotorch.training.data.prepare import prepare
from nanotorch.training.model_file import read_model_file
from nanotorch.training.objective import ElasticNet
from nanotorch.training.results import Finished
from nanotorch.training.run_folder import read_log

REPOSITORY = Path(__file__).parent.parent
Train = Callable[..., Finished]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains from flags on breast_cancer, without pictures, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text('[data]\nsource = "breast_cancer"\n')

    def run(*flags: str, resume: str | None = None) -> Finished:
        quick = ["--output.curves", "false", "--output.report", "false", "--device", "cpu"]
        request = read_request(["a.toml", *quick, *flags])
        return fit(request.configs[0], resume, quiet=True)

    return run


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "train.py"), "configs/breast_cancer.toml"]
    result = subprocess.run(
        [*command, "--output.folder", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "breast_cancer-1"
    assert result.stderr == ""
    assert str(folder) in result.stdout.splitlines()[-1]
    assert sum(line.startswith("epoch") for line in result.stdout.splitlines()) == 100
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test"]["accuracy"] >= 0.96
    assert len(read_log(folder / "metrics.jsonl")) == 100
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "loss.svg").read_text()
    assert "</html>" in (folder / "report.html").read_text()
    saved = read_model_file(folder / "model.safetensors")
    assert set(saved.weights) == {"weight", "bias"}
    assert set(saved.standardization) == {"mean", "scale"}


@pytest.mark.parametrize("name", ["digits", "csv", "frozen"])
def test_every_configuration_that_ships_trains(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(REPOSITORY)
    quick = ["--output.folder", str(tmp_path), "--output.curves", "false", "--device", "cpu"]
    run = fit(read_request([f"configs/{name}.toml", *quick]).configs[0], quiet=True)
    assert run.summary["test"]["accuracy"] > 0.8
    assert run.summary["ended"] is not None


def test_runs_are_numbered_and_never_overwritten(train: Train) -> None:
    folders = [train("--training.epochs", "1").folder.name for _ in range(3)]
    assert folders == ["a-1", "a-2", "a-3"]


def test_the_resolved_configuration_repeats_the_run_to_the_byte(train: Train) -> None:
    first = train("--training.epochs", "3", "--optimizer.momentum", "0.9")
    second = fit(read_request([str(first.folder / "config.toml")]).configs[0], quiet=True)
    for name in ("config.toml", "metrics.jsonl", "model.safetensors", "summary.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes(), name


def test_another_seed_gives_another_run(train: Train) -> None:
    one, other = train("--training.epochs", "1"), train("--training.epochs", "1", "--seed", "1")
    assert one.summary["train"]["loss"] != other.summary["train"]["loss"]


SECTIONS = get_args(get_args(choices.Optimizer)[0])
NAMES = {section.model_fields["name"].default for section in SECTIONS}


@pytest.mark.parametrize("optimizer", sorted(NAMES - {"lbfgs"}))
def test_every_optimizer_learns(optimizer: str, train: Train) -> None:
    rate = "2.0" if optimizer == "adadelta" else "0.02"
    run = train("--optimizer.name", optimizer, "--optimizer.lr", rate, "--training.epochs", "20")
    assert run.summary["validation"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer.name", "sgd", "--optimizer.momentum", "0.9", "--optimizer.weight_decay", "1"],
        ["--optimizer.name", "adamw", "--optimizer.weight_decay", "0.5"],
        ["--penalty.l2", "0.1", "--penalty.parameters", '["*"]'],
        ["--training.clip_norm", "0.001"],
    ],
    ids=["sgd with decay", "adamw with decay", "penalty", "clipping"],
)
def test_frozen_parameters_stay_equal_to_the_byte(flags: list[str], train: Train) -> None:
    start = train("--training.epochs", "1")
    before = read_model_file(start.folder / "model.safetensors").weights
    run = train(
        *("--model.start", str(start.folder)),
        *("--model.freeze", '["weight"]'),
        *("--training.epochs", "2"),
        *flags,
    )
    after = read_model_file(run.folder / "model.safetensors").weights
    assert after["weight"].tobytes() == before["weight"].tobytes()
    assert after["bias"].tobytes() != before["bias"].tobytes()
    assert run.summary["trained_parameters"] == 1


def test_frozen_parameters_are_unknown_to_the_optimizer(train: Train) -> None:
    run = train(
        *("--model.freeze", '["weight"]', "--optimizer.name", "adam", "--training.epochs", "1"),
    )
    (checkpoint,) = (run.folder / "checkpoints").iterdir()
    from nanotorch.training.model_file import read_arrays

    arrays, _ = read_arrays(checkpoint / "training.safetensors")
    moments = [a for name, a in arrays.items() if "exp_avg" in name]
    assert [a.size for a in moments] == [1, 1]


def test_parameters_are_released_in_their_epoch(train: Train) -> None:
    flags = ("--model.freeze", '["weight"]', "--training.epochs", "3", "--stopping.restore_best")
    frozen = train(*flags, "false")
    released = train(*flags, "false", "--model.unfreeze_at", "{weight = 2}")
    before, after = (read_log(run.folder / "metrics.jsonl") for run in (frozen, released))
    assert before[:2] == after[:2]
    assert before[2] != after[2]
    assert released.summary["trained_parameters"] == 31


def test_the_page_on_fine_tuning_trains_as_it_says(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (REPOSITORY / "docs/fine-tuning.md").read_text()
    toml = page.split("```toml\n")[1].split("```")[0]
    fresh = ["--model.name", "mlp", "--model.hidden", "[64]", "--training.epochs", "1"]
    large = train("--name", "large", *fresh)
    Path("a.toml").write_text('[data]\nsource = "breast_cancer"\n' + toml)
    for epochs, moves in ((5, False), (6, True)):
        more = ["--training.epochs", str(epochs), "--stopping.restore_best", "false"]
        request = read_request(["a.toml", *more, "--output.report", "false"])
        tuned = fit(request.configs[0], quiet=False)
        start, end = (
            read_model_file(r.folder / "model.safetensors").weights for r in (large, tuned)
        )
        same = {name: np.array_equal(start[name], end[name]) for name in start}
        assert same == {"0.weight": not moves, "0.bias": True, "2.weight": False, "2.bias": False}
    table = capsys.readouterr().out
    assert "0.weight  (64, 30)  1,920  frozen, trained from epoch 6 on\n" in table
    assert "0.bias    (64,)        64  frozen\n" in table


# --- the numbers -------------------------------------------------------------------------------


def sklearn_weights(run: Finished, l2: float) -> np.ndarray[Any, Any]:
    """Weights and intercept of scikit-learn's optimum on the run's own training rows."""
    from sklearn.linear_model import LogisticRegression

    part = run.data.train
    model = LogisticRegression(C=1 / (l2 * len(part)), tol=1e-10, max_iter=10000)
    model.fit(part.features.values.astype(np.float64), part.target.ravel())
    return np.concatenate([model.coef_, model.intercept_[:, None]], axis=1)


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer.name", "lbfgs", "--training.epochs", "10"],
        ["--optimizer.lr", "0.5", "--optimizer.momentum", "0.9", "--training.epochs", "3000"],
    ],
    ids=["lbfgs", "sgd"],
)
@pytest.mark.parametrize("source", ["breast_cancer", "iris"])
def test_converged_weights_agree_with_scikit_learn(
    flags: list[str], source: str, train: Train
) -> None:
    l2 = 0.01
    run = train(
        *("--data.source", source, "--penalty.l2", str(l2), "--stopping.restore_best", "false"),
        *("--training.batch_size", "0", "--training.shuffle", "false", *flags),
    )
    saved = read_model_file(run.folder / "model.safetensors").weights
    ours = np.concatenate([saved["weight"], saved["bias"][:, None]], axis=1)
    expected = sklearn_weights(run, l2)
    if len(expected) > 1:  # softmax fixes biases up to a shift of all classes
        ours[:, -1] -= ours[:, -1].mean()
        expected[:, -1] -= expected[:, -1].mean()
    np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_pytorch_twin_prints_the_same_losses(optimizer: str, train: Train) -> None:
    torch = pytest.importorskip("torch")
    epochs = 100
    flags = ["--optimizer.momentum", "0.9"] if optimizer == "sgd" else []
    run = train(
        *("--optimizer.name", optimizer, "--optimizer.lr", "0.05", *flags),
        *("--training.epochs", str(epochs)),
    )
    ours = [record["train/loss"] for record in read_log(run.folder / "metrics.jsonl")]

    torch.manual_seed(0)
    model = torch.nn.Linear(30, 1)
    kinds = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    }
    twin = kinds[optimizer](model.parameters())
    part = prepare(run.config.data, "logistic", 0).train
    inputs, target = torch.from_numpy(part.features.values), torch.from_numpy(part.target)
    theirs = []
    for epoch in range(epochs):
        total = 0.0
        order = torch.from_numpy(epoch_order(0, epoch, len(target)))
        for rows in order.split(32):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                model(inputs[rows]), target[rows]
            )
            twin.zero_grad()
            loss.backward()
            twin.step()
            total += loss.item() * len(rows)
        theirs.append(total / len(target))
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


def test_gradients_of_batches_add_up_to_those_of_a_large_one(train: Train) -> None:
    large = train("--training.batch_size", "96", "--training.epochs", "3")
    small = train(
        *("--training.batch_size", "32", "--training.accumulate", "3", "--training.epochs", "3")
    )
    for name in ("weight", "bias"):
        np.testing.assert_allclose(
            read_model_file(small.folder / "model.safetensors").weights[name],
            read_model_file(large.folder / "model.safetensors").weights[name],
            atol=1e-5,
        )


def test_weights_of_one_change_nothing_at_all(train: Train, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((90, 3))
    y = (x[:, 0] + random.standard_normal(90) > 0).astype(int)
    table = np.column_stack([x, np.ones(90), y])
    np.savetxt("w.csv", table, delimiter=",", header="a,b,c,weight,y", comments="", fmt="%.8g")
    flags = ("--data.source", "w.csv", "--training.epochs", "3")
    weighted = train(*flags, "--data.weight", "weight")
    plain = train(*flags, "--data.ignore", '["weight"]')
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (weighted.folder / name).read_bytes() == (plain.folder / name).read_bytes()


def test_doubled_weights_are_doubled_rows(train: Train) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((60, 2))
    y = (x[:, 0] + random.standard_normal(60) > 0).astype(int)
    weights = np.where(np.arange(60) < 30, 2, 1)
    header = {"delimiter": ",", "comments": "", "fmt": "%.8g"}
    np.savetxt("w.csv", np.column_stack([x, weights, y]), header="a,b,w,y", **header)
    twice = np.repeat(np.column_stack([x, y]), weights, axis=0)
    np.savetxt("t.csv", twice, header="a,b,y", **header)
    flags = (
        *("--data.standardize", "false", "--data.test", "0", "--data.validation", "0"),
        *("--optimizer.name", "lbfgs", "--training.batch_size", "0", "--training.epochs", "5"),
        *("--penalty.l2", "0.01"),
    )
    weighted = train("--data.source", "w.csv", "--data.weight", "w", *flags)
    doubled = train("--data.source", "t.csv", *flags)
    for name in ("weight", "bias"):
        np.testing.assert_allclose(
            read_model_file(weighted.folder / "model.safetensors").weights[name],
            read_model_file(doubled.folder / "model.safetensors").weights[name],
            atol=1e-4,
        )


@pytest.mark.parametrize("numbers", [{"l2": 0.3}, {"l1": 0.2}, {"l1": 0.2, "l2": 0.3}])
@pytest.mark.parametrize("share", [1.0, 569.0])
def test_a_penalty_adds_a_share_of_the_slope_of_its_value(
    numbers: dict[str, float], share: float
) -> None:
    weight = nt.nn.Parameter(nt.tensor([[0.5, -2.0], [1.5, 3.0]], dtype=nt.float64))
    frozen = nt.nn.Parameter(nt.ones(2, dtype=nt.float64), requires_grad=False)
    weight.grad, frozen.grad = nt.ones_like(weight), nt.ones_like(frozen)
    penalty = ElasticNet(Penalty(**numbers), [("weight", weight), ("bias", frozen)])
    penalty.add_gradients(share)
    for place in np.ndindex(2, 2):
        values = []
        for move in (1e-4, -2e-4):
            with nt.no_grad():
                weight[place] += move
            values.append(penalty.value())
        with nt.no_grad():
            weight[place] += 1e-4
        slope = (values[0] - values[1]) / 2e-4
        assert weight.grad[place].item() == pytest.approx(1 + share * slope, rel=1e-6)
    assert frozen.grad.tolist() == [1.0, 1.0]


def test_the_best_weights_come_back(train: Train) -> None:
    run = train("--optimizer.lr", "5.0", "--training.epochs", "15")
    losses = [record["validation/loss"] for record in read_log(run.folder / "metrics.jsonl")]
    assert run.summary["best_epoch"] == 1 + int(np.argmin(losses))
    assert run.summary["validation"]["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_early_stopping_waits_for_its_patience(train: Train) -> None:
    run = train("--optimizer.lr", "5.0", "--training.epochs", "200", "--stopping.patience", "4")
    assert run.summary["epochs"] == run.summary["best_epoch"] + 4


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_best(train: Train) -> None:
    from nanotorch.training.errors import RunFailure

    with pytest.raises(RunFailure, match=r"epoch \d+, step \d+.*smaller optimizer.lr"):
        train(
            *("--data.source", "diabetes", "--model.name", "linear"),
            *("--optimizer.lr", "3", "--data.standardize", "false"),
        )
    summary = json.loads(Path("runs/a-1/summary.json").read_text())
    assert summary["ended"].startswith("the loss became")


def test_a_multilabel_target_trains_one_output_each(train: Train) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 3))
    labels = (x[:, :2] > 0).astype(int)
    np.savetxt(
        "m.csv",
        np.column_stack([x, labels]),
        delimiter=",",
        header="a,b,c,up,right",
        comments="",
        fmt="%.6g",
    )
    run = train("--data.source", "m.csv", "--data.target", '["up", "right"]')
    assert run.summary["data"]["task"] == "labels"
    assert run.summary["test"]["accuracy"] > 0.85


def test_linear_regression_reaches_the_least_squares(train: Train) -> None:
    run = train(
        *("--data.source", "diabetes", "--model.name", "linear", "--optimizer.name", "lbfgs"),
        *("--training.batch_size", "0", "--training.epochs", "10", "--data.validation", "0"),
    )
    x = run.data.train.features.values.astype(np.float64)
    x = np.column_stack([x, np.ones(len(x))])
    expected = np.linalg.lstsq(x, run.data.train.target[:, 0], rcond=None)[0]
    saved = read_model_file(run.folder / "model.safetensors").weights
    np.testing.assert_allclose(saved["weight"][0], expected[:-1], atol=0.05)
    np.testing.assert_allclose(saved["bias"][0], expected[-1], atol=0.05)


def test_an_own_module_is_trained(train: Train, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "own_module.py").write_text(
        "import nanotorch as nt\n"
        "class Wide(nt.nn.Module):\n"
        "    def __init__(self, inputs, outputs, width):\n"
        "        super().__init__()\n"
        "        self.first = nt.nn.Linear(inputs, width)\n"
        "        self.second = nt.nn.Linear(width, outputs)\n"
        "    def forward(self, x):\n"
        "        return self.second(nt.tanh(self.first(x)))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = train(
        *("--model.name", "module", "--model.module", "own_module:Wide"),
        *("--model.arguments", "{width = 8}", "--training.epochs", "20"),
    )
    assert run.summary["parameters"] == 31 * 8 + 9
    assert run.summary["test"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ('[sweep]\n"optimizer.lr" = [0.1, 0.01]\nseed = [0, 1]\n', []),
        ("[sweep]\noptimizer.lr = [0.1, 0.01]\nseed = [0, 1]\n", []),
        ("", ["--sweep.optimizer.lr", "[0.1, 0.01]", "--sweep.seed", "[0, 1]"]),
        ("", ["--sweep.optimizer.lr", "[0.1, 0.01]", "--seed", "0,1"]),
    ],
    ids=["quoted", "dotted", "flags", "seeds"],
)
def test_a_sweep_tries_every_combination(
    text: str, flags: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text('[data]\nsource = "iris"\n' + text)
    configs = read_request(["s.toml", *flags]).configs
    assert [(c.optimizer.lr, c.seed) for c in configs] == [(0.1, 0), (0.1, 1), (0.01, 0), (0.01, 1)]
    assert all(not config.sweep for config in configs)


def test_the_bar_is_off_and_output_is_clean_without_a_terminal(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "train.py", "configs/csv.toml", "--output.folder", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=True,
    )
    assert result.stderr == ""
    assert "\r" not in result.stdout


def test_the_generator_of_the_run_decides_the_first_weights(train: Train) -> None:
    run = train("--training.epochs", "1", "--optimizer.lr", "1e-30", "--seed", "5")
    nt.manual_seed(5)
    fresh = nt.nn.Linear(30, 1)
    saved = read_model_file(run.folder / "model.safetensors").weights
    np.testing.assert_array_equal(saved["weight"], fresh.weight.detach().numpy())
