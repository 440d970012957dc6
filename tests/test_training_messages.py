"""Messages at the right place, and the command line as people expect it."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import nanotorch as nt
from nanotorch.training.commands import COMMANDS, main
from nanotorch.training.exits import exit_code
from nanotorch.training.files import write_whole

REPOSITORY = Path(__file__).parent.parent
QUICK = ["--output.curves", "false", "--output.report", "false", "--device", "cpu", "--quiet"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def call(command: str, *arguments: str) -> int:
    return exit_code(COMMANDS[command], list(arguments), f"nanotorch {command}")


IRIS = '[data]\nsource = "iris"\n'
PLACES = {
    "seeds": (
        IRIS,
        ["--seed", "0,a"],
        r'command line: sweep: seed: expected integer \(>= 0\), given "a"',
    ),
    "seeds, one of them empty": (IRIS, ["--seed", ",1"], 'command line: sweep: seed: .* given ""'),
    "a sweep of a flag": (
        IRIS,
        ["--sweep.optimizer.lr", "0.1,-1"],
        "command line: sweep: optimizer.lr",
    ),
    "a sweep without values": (
        IRIS,
        ["--sweep.optimizer.lr", "[]"],
        "command line: sweep.optimizer.lr: expected list",
    ),
    "a sweep of the file": (
        IRIS + '[sweep]\n"optimizer.lr" = [-1]\n',
        [],
        r"a.toml:4: sweep: optimizer.lr: expected number",
    ),
    "a sweep of the file in dotted keys": (
        IRIS + "[sweep]\noptimizer.lr = [-1]\n",
        [],
        r"a.toml:4: sweep: optimizer.lr: expected number",
    ),
    "no list in a sweep": (
        IRIS + "[sweep]\nseed = 1\n",
        [],
        "a.toml:4: sweep.seed: expected list",
    ),
    "an unknown choice": (
        IRIS,
        ["--optimizer.name", "adm"],
        "command line: optimizer.name: .*adam",
    ),
    "an unknown section": (IRIS, ["--modle.name", "mlp"], "command line: modle: .*`model`"),
    "an entry of a table": (
        IRIS + '[data.types]\n"petal length" = "numbr"\n',
        [],
        'a.toml:4: data.types.petal length: expected "number" or .*did you mean "number"',
    ),
    "an entry of a list": (
        IRIS + '[metrics]\neach_epoch = ["acuracy"]\n',
        [],
        r'a.toml:4: metrics.each_epoch\[0\]: expected "accuracy" or .*did you mean "accuracy"',
    ),
    "one of several kinds": (
        IRIS + "[loss]\nclass_weight = [-1.0, 1.0, 1.0]\n",
        [],
        'a.toml:4: loss.class_weight: expected "none" or "balanced" or list .*\n'
        "nanotorch train: 1 error",
    ),
    "a file that is missing": (
        '[data]\nsource = "nix.csv"\n',
        [],
        "a.toml:2: data.source: nix.csv: there is no such file",
    ),
    "a file that is missing, of a flag": (
        IRIS,
        ["--data.source", "nix.csv"],
        "command line: data.source: nix.csv: there is no such file",
    ),
    "weights that are missing": (
        IRIS + '[model]\nstart = "nix"\n',
        [],
        "a.toml:4: model.start: nix: there is no such file",
    ),
    "a column that is missing": (
        IRIS + 'target = "nix"\n',
        [],
        "a.toml:3: iris: data.target: there is no column 'nix'",
    ),
    "a target of another kind": (
        IRIS + '[model]\nname = "linear"\n',
        [],
        "a.toml:2: data.source: iris: target 'target' is text",
    ),
    "a device": (IRIS, ["--device", "cuda:99"], "command line: device: "),
    "shares of the split in two places": (
        IRIS + "test = 0.6\n",
        ["--data.validation", "0.5"],
        r"a.toml:3 and command line: data.test \+ data.validation",
    ),
    "shares that leave nothing": (
        IRIS + "test = 0.99\nvalidation = 0.0\n",
        [],
        r"a.toml:3: data.test \+ data.validation: .* of 150 rows leave none",
    ),
    "more folds than rows": (IRIS + "folds = 500\n", [], "a.toml:3: data.folds: 500 folds of 120"),
    "a fold without folds": (IRIS + "fold = 1\n", [], "a.toml:3: data.fold: is one of data.folds"),
    "batches for lbfgs": (
        IRIS + '[optimizer]\nname = "lbfgs"\n',
        [],
        "a.toml:4: optimizer.name: lbfgs needs all rows at once",
    ),
    "a metric that is not measured": (
        IRIS,
        ["--stopping.monitor", "f1_macro"],
        r'command line: stopping.monitor: .*metrics.each_epoch = \["f1_macro"\]',
    ),
    "what is never frozen": (
        IRIS + '[model]\nfreeze = ["weight"]\nunfreeze_at = {bias = 1}\n',
        [],
        "a.toml:5: model.unfreeze_at: no frozen parameter matches 'bias'; there are weight",
    ),
    "what starts nowhere": (
        IRIS + '[model]\nstart_skip = ["weight"]\n',
        [],
        "a.toml:4: model.start_skip: is for model.start",
    ),
    "text without quotes": (
        "[data]\nsource = iris\n",
        [],
        'a.toml:2: not valid TOML.*text stands in quotes: "iris"',
    ),
    "a text that does not end": (
        '[data]\nsource = "iris\n',
        [],
        "a.toml:2: not valid TOML.* text ",
    ),
    "True": (IRIS + "standardize = True\n", [], "a.toml:3: not valid TOML.* write true"),
    "a decimal comma": (IRIS + "test = 0,2\n", [], "a.toml:3: not valid TOML.* a point: 0.2"),
    "a path with backslashes": (
        '[data]\nsource = "C:\\Users\\x.csv"\n',
        [],
        "a.toml:2: not valid TOML.*single quotes",
    ),
    "a list that does not end": (IRIS + 'ignore = ["a"\n', [], "a.toml:3: not valid TOML"),
    "an empty file": ("", [], r"a.toml: data.source: is required"),
    "shares of the split": (
        IRIS + "test = 0.6\nvalidation = 0.5\n",
        [],
        r"a.toml:[34]: data.test \+ data.validation",
    ),
    "class weights": (
        IRIS + "[loss]\nclass_weight = [1.0]\n",
        [],
        "a.toml:4: loss.class_weight: expected 3",
    ),
    "a monitor": (
        IRIS + '[stopping]\nmonitor = "f1"\n',
        [],
        "a.toml:4: stopping.monitor: expected",
    ),
    "what is frozen": (
        IRIS + '[model]\nfreeze = ["q"]\n',
        [],
        "a.toml:4: model.freeze: no parameter",
    ),
    "what is frozen by a flag": (IRIS, ["--model.freeze", '["q"]'], "command line: model.freeze"),
    "a key set twice": (
        IRIS + 'source = "wine"\n',
        [],
        "a.toml:3: source is set a second time here",
    ),
    "a key of several lines set twice": (
        IRIS + 'ignore = [\n  "a",\n]\nignore = [\n  "b",\n]\n',
        [],
        "a.toml:6: ignore is set a second time here",
    ),
    "a key set twice in one line": (
        IRIS + 'types = {a = "date", a = "number"}\n',
        [],
        "a.toml:3: a is set a second time here",
    ),
    "a table set twice": (
        IRIS + "[data]\ntest = 0.1\n",
        [],
        r"a.toml:3: \[data\] is set a second time",
    ),
    "a group that is missing": (
        IRIS + 'split = "grouped"\n',
        [],
        'a.toml:3: data.split: "grouped" needs data.group',
    ),
    "a group without its split": (
        IRIS + 'group = "target"\n',
        [],
        'a.toml:3: data.group: is used by data.split = "grouped" alone',
    ),
}


@pytest.mark.parametrize("kind", PLACES)
def test_a_mistake_is_told_with_its_place(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, flags, message = PLACES[kind]
    Path("a.toml").write_text(text)
    assert call("train", "a.toml", *QUICK, *flags) == 2
    assert re.match(f"nanotorch train: {message}", error := capsys.readouterr().err), error


def test_a_configuration_with_a_byte_order_mark_is_read() -> None:
    Path("a.toml").write_text("\ufeff" + IRIS + "[training]\nepochs = 1\n")
    assert call("train", "a.toml", *QUICK) == 0


def test_a_missing_configuration_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        Path(f"other{number}.toml").touch()
    Path("titanic.toml").touch()
    assert call("train", "titanik.toml") == 2
    assert "beside it: titanic.toml" in capsys.readouterr().err
    assert call("train", "breast_cancr") == 2
    assert "did you mean 'breast_cancer'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["breast_cancer", "csv", "frozen"])
def test_a_shipped_configuration_is_found_by_its_name_in_any_folder(name: str) -> None:
    assert call("train", name, *QUICK, "--training.epochs", "1") == 0
    assert Path(f"runs/{name}-1/model.safetensors").exists()


def test_a_sweep_may_be_written_with_commas() -> None:
    Path("a.toml").write_text(IRIS + "[training]\nepochs = 1\n")
    assert call("train", "a.toml", *QUICK, "--sweep.optimizer.lr", "0.1,0.01") == 0
    assert len(list(Path("runs").iterdir())) == 2


# --- the command -------------------------------------------------------------------------------


def test_the_module_and_the_version_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nanotorch", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"nanotorch {nt.__version__}\n"
    monkeypatch.setattr(sys, "argv", ["nanotorch", "trian"])
    assert main() == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_train_helps_under_the_name_it_was_called_by(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMMANDS["train"](["--help"])
    assert capsys.readouterr().out.startswith("usage: nanotorch train CONFIG.toml")


def test_a_closed_pipe_does_not_end_a_run(tmp_path: Path) -> None:
    Path("a.toml").write_text(IRIS + "[training]\nepochs = 300\n")
    flags = ["--output.curves", "false", "--output.report", "false"]
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "a.toml", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
    assert len(Path("runs/a-1/metrics.jsonl").read_text().splitlines()) == 300


SLOW_ENDINGS = ("2>&1 | head -1", "2>&-", "| true")


@pytest.mark.parametrize(
    "ending",
    [
        "| head -1",
        ">&-",
        ">/dev/full",
        *(pytest.param(e, marks=pytest.mark.slow) for e in SLOW_ENDINGS),
    ],
)
def test_words_that_nobody_reads_end_nothing(ending: str) -> None:
    """Output that is closed, full, or never read, of a run and of a command that writes a file."""
    Path("a.toml").write_text(IRIS + "[training]\nepochs = 3\n")
    flags = "--output.curves false --output.report false --device cpu --resume"
    for command in (f"train a.toml {flags}", "inspect iris --write b.toml"):
        words = f"{sys.executable} -m nanotorch {command} {ending}"
        result = subprocess.run(
            ["bash", "-c", f"{words}; exit ${{PIPESTATUS[0]}}"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert (result.returncode, result.stderr) == (0, ""), command
    assert Path("runs/a-1/summary.json").exists()
    assert Path("b.toml").exists()


def test_commands_replace_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "breast_cancer", *QUICK, "--training.epochs", "2") == 0
    run, there = "runs/breast_cancer-1", Path("there.csv")
    for command in (
        ["predict", run, "breast_cancer", "--output", "there.csv"],
        ["export-csv", run, "--output", "there.csv"],
        ["make-data", "there.csv"],
        ["inspect", "iris", "--write", "there.csv"],
    ):
        there.write_text("mine")
        assert call(*command) == 2
        assert "there.csv is there already; --force would replace it" in capsys.readouterr().err
        assert there.read_text() == "mine"
        assert call(*command, "--force") == 0
        assert there.read_text() != "mine"
        nowhere = [word.replace("there.csv", "nowhere/there.csv") for word in command]
        assert call(*nowhere) == 2
        assert "there is no folder nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "files"),
    [
        ("cmp.png", ["cmp.png"]),
        ("cmp.PNG", ["cmp.PNG"]),
        ("cmp.svg", ["cmp.svg"]),
        ("cmp", ["cmp.png", "cmp.svg"]),
        ("cmp.jpg", []),
        ("cmp.v2", []),
        ("nowhere/cmp.png", []),
        (".", []),
    ],
)
def test_plot_writes_what_output_says(output: str, files: list[str]) -> None:
    assert call("train", "breast_cancer", *QUICK, "--training.epochs", "2") == 0
    code = call("plot", "runs/breast_cancer-1", "--output", output)
    assert sorted(path.name for path in Path().glob("cmp*")) == files
    assert code == (0 if files else 2)


def test_plot_replaces_nothing_and_takes_a_name_with_its_ending(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("train", "breast_cancer", *QUICK, "--training.epochs", "2") == 0
    run = "runs/breast_cancer-1"
    assert call("plot", run, "--output", "cmp.png") == 0
    assert sorted(path.name for path in Path().glob("cmp*")) == ["cmp.png"]
    assert call("plot", run, "--output", "cmp") == 2
    assert not Path("cmp.svg").exists()
    assert call("plot", run, "--output", "cmp", "--force") == 0
    assert Path("cmp.svg").exists()


def test_losses_of_two_kinds_do_not_share_an_axis(capsys: pytest.CaptureFixture[str]) -> None:
    few = [*QUICK, "--training.epochs", "2"]
    assert call("train", "breast_cancer", *few) == 0
    Path("d.toml").write_text('[data]\nsource = "diabetes"\n[model]\nname = "linear"\n')
    assert call("train", "d.toml", *few) == 0
    for _ in range(2):  # the second time of runs that go on, and have no summary yet
        assert call("plot", "runs/breast_cancer-1", "runs/d-1") == 2
        words = "cross-entropies and squared errors cannot share an axis"
        assert words in capsys.readouterr().err
        for summary in Path("runs").glob("*/summary.json"):
            summary.unlink()
    flags = [
        "--model.name",
        "mlp",
        "--data.task",
        "regression",
        "--name",
        "m",
        "--optimizer.lr",
        "0.0001",
        *few,
    ]
    assert call("train", "d.toml", *flags) == 0
    Path("runs/m-1/summary.json").unlink()
    assert call("plot", "runs/breast_cancer-1", "runs/m-1") == 2
    assert call("plot", "runs/d-1", "runs/m-1") == 0
    capsys.readouterr()
    assert call("plot", "runs/d-1", "--quantity", "acuracy", "--output", "x") == 2
    assert "no epoch has 'acuracy'; recorded are loss, r2" in capsys.readouterr().err


NAMES = {
    "größe datei": "grosse-datei",
    "my data (2)": "my-data-2",
    ".hidden": "hidden",
    "a--b": "a--b",
    "données": "donnees",
    "数据": "run",
}


@pytest.mark.parametrize("stem", NAMES)
def test_any_file_name_gives_a_run_a_name(stem: str) -> None:
    Path(f"{stem}.toml").write_text(IRIS + "[training]\nepochs = 1\n")
    assert call("train", f"{stem}.toml", *QUICK) == 0
    assert [path.name for path in Path("runs").iterdir()] == [f"{NAMES[stem]}-1"]


def test_the_command_shown_by_inspect_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", "iris", "--write", "my data.toml") == 0
    assert "now: nanotorch train 'my data.toml'" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_what_is_no_run_is_named_with_what_lies_beside_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/my-1").mkdir(parents=True)
    more = {"predict": ["iris"], "evaluate": ["iris"], "export": ["--to", "torch"]}[command]
    assert call(command, "runs/my-2", *more) == 2
    assert "runs/my-2: there is no such file; beside it: my-1" in capsys.readouterr().err
    assert call(command, "runs", *more) == 2
    assert "runs: not the folder of a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "write",
    [lambda path: write_whole(path, b"a"), lambda path: nt.save(nt.ones(1), path)],
    ids=["write_whole", "save"],
)
def test_a_file_that_cannot_be_written_is_named_as_the_user_knows_it(
    write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", ".temporary-1")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write(Path("a.bin"))
    assert Path(caught.value.filename).name == "a.bin"
    assert not list(Path().iterdir())


def test_a_pattern_that_skips_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text(IRIS + "[training]\nepochs = 1\n")
    assert call("train", "a.toml", *QUICK) == 0
    more = ["--model.start", "runs/a-1", "--model.start_skip", "['weigth']"]
    assert call("train", "a.toml", *QUICK, *more) == 2
    expected = "model.start_skip: no parameter matches 'weigth'; there are weight, bias"
    assert expected in capsys.readouterr().err
