"""Bad input of every kind: the exit code, the message, and that nothing is left half-written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from nanotorch.training.commands import COMMANDS
from nanotorch.training.exits import exit_code

REPOSITORY = Path(__file__).parent.parent
GOOD = '[data]\nsource = "iris"\n[training]\nepochs = 1\n'
CSV = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(40))


@dataclass
class Bad:
    """A call that must fail: what is given, and what must be said (a regular expression)."""

    says: str
    config: str = GOOD
    flags: list[str] = field(default_factory=list)
    files: dict[str, str | bytes] = field(default_factory=dict)
    command: str = "train"
    code: int = 2
    lines: int | None = 1


def config(says: str, text: str, lines: int = 2, **others: object) -> Bad:
    """A configuration with mistakes: a line for each, and the closing line."""
    return Bad(says, text, lines=lines, **others)  # type: ignore[arg-type]


def data(says: str, csv: str | bytes, *flags: str, name: str = "d.csv") -> Bad:
    """A data file that cannot be used."""
    source = ["--data.source", name, "--output.curves", "false"]
    return Bad(says, flags=[*source, *flags], files={name: csv})


def flags(says: str, *given: str, lines: int | None = 1, code: int = 2) -> Bad:
    return Bad(says, flags=list(given), lines=lines, code=code)


def table(rows: int = 40, **columns: object) -> str:
    names = list(columns)
    values = [np.broadcast_to(np.asarray(column), rows) for column in columns.values()]
    return "\n".join([",".join(names), *(",".join(map(str, row)) for row in zip(*values))]) + "\n"


ROW = np.arange(40)
BAD = {
    # --- the command line
    "no such file": Bad(
        "nowhere.toml: there is no such file", command="train", flags=["nowhere.toml"]
    ),
    "a flag without a value": flags("--seed needs a value", "--seed"),
    "one dash": flags("flags begin with two dashes", "-seed"),
    "an unknown flag": flags(
        "optimizer.lrr: unknown key; did you mean `optimizer.lr`", "--optimizer.lrr", "1", lines=2
    ),
    "a flag of the wrong type": flags(
        "command line: optimizer.lr: expected number", "--optimizer.lr", "fast", lines=2
    ),
    "a flag out of range": flags(
        r"expected number \(> 0\), given -1", "--optimizer.lr", "-1", lines=2
    ),
    "a flag below a value": flags("seed: expected integer", "--seed.x", "1", lines=2),
    "a seed that is no number": flags(
        "command line: sweep: seed: expected integer", "--seed", "0,x", lines=None
    ),
    "resume of nothing": flags("is not a run folder", "--resume", "runs/none-1"),
    # --- the configuration
    "not TOML": config(r"a.toml:1: not valid TOML, column 6: ", "[data\n", 1),
    "not text": config("not a text file in UTF-8", "", 1, files={"a.toml": b"\xff\xfe\x00"}),
    "an empty file": config(r"data.source: is required", ""),
    "no source": config(r"a.toml:1: data.source: is required", "[data]\n"),
    "an unknown section": config(
        "a.toml:5: datta: unknown key; did you mean `data`", GOOD + "[datta]\nx = 1\n"
    ),
    "a typo": config(
        "a.toml:4: training.epoch: unknown key; did you mean `training.epochs`",
        GOOD.replace("epochs", "epoch"),
    ),
    "a key of another section": config(
        "did you mean `schedule.patience` or `stopping.patience`", GOOD + "patience = 3\n"
    ),
    "a key of another variant": config(
        "`momentum` belongs to optimizer `sgd` or `rmsprop`, not `adam`",
        GOOD + '[optimizer]\nname = "adam"\nmomentum = 0.9\n',
    ),
    "an unknown variant": config(
        'given "adamm"; did you mean "adam"', GOOD + '[optimizer]\nname = "adamm"\n'
    ),
    "text for a number": config(
        'a.toml:4: training.epochs: expected integer .*given "64"', GOOD.replace("1", '"64"')
    ),
    "a fraction for a count": config("expected integer", GOOD.replace("1", "1.5")),
    "zero epochs": config("expected integer .>= 1., given 0", GOOD.replace("1", "0")),
    "not a number": config(
        "optimizer.lr: expected (a finite )?number", GOOD + "[optimizer]\nlr = nan\n"
    ),
    "infinite": config(
        "optimizer.lr: expected (a finite )?number", GOOD + "[optimizer]\nlr = inf\n"
    ),
    "a device that is none": config('like "auto", "cpu", "cuda"', 'device = "gpu"\n' + GOOD),
    "a name with a slash": config("expected a name like", 'name = "a/b"\n' + GOOD),
    "a value for a section": config(
        r"expected a section \[training\]", "training = 3\n[data]\nsource = 'iris'\n"
    ),
    "several mistakes at once": config(
        "3 errors", GOOD + '[optimizer]\nlr = -1\nmomentum = 2\n[model]\nname = "tree"\n', 4
    ),
    "a metric that is none": config(
        'did you mean "accuracy"', GOOD + '[metrics]\neach_epoch = ["acuracy"]\n'
    ),
    "a sweep over a bad value": config(
        "sweep: optimizer.lr", GOOD + '[sweep]\n"optimizer.lr" = [-1]\n', 1
    ),
    # --- data files
    "no data file": Bad("d.csv: there is no such file", flags=["--data.source", "d.csv"]),
    "an unknown kind of file": Bad("neither a bundled data set", flags=["--data.source", "d.doc"]),
    "a workbook": Bad("save the table as CSV", flags=["--data.source", "d.xlsx"]),
    "an ARFF file": Bad("remove the lines that begin with @", flags=["--data.source", "d.arff"]),
    "an empty data file": data("the file is empty", ""),
    "a header alone": data("there are no rows", "a,b,y\n"),
    "empty lines alone": data("d.csv: the file holds no rows", "\n\n \n"),
    "a ragged row": data(
        "d.csv:3: expected 3 columns as in the first line, found 2", "a,b,y\n1,2,0\n1,1\n2,3,1\n"
    ),
    "a column that is no date": data(
        "data.types: 'b' holds no dates",
        "a,b,y\n1,u,0\n1,x,1\n2,u,1\n",
        "--data.types",
        '{b = "date"}',
    ),
    "a type of no column": data(
        "no column 'aa'; did you mean 'a'", "a,b,y\n1,2,0\n1,3,1\n", "--data.types", '{aa = "date"}'
    ),
    "a weight that is the target": data(
        "data.weight: 'y' is the target", CSV, "--data.weight", "y", "--data.target", "y"
    ),
    "a weight that is text": data(
        "data.weight: 'b' is text", table(a=ROW, b="u", y=ROW % 2), "--data.weight", "b"
    ),
    "a time that is text": data(
        "data.time: column 'b' holds neither numbers nor dates of one format",
        "a,b,y\n1,1/5/2025,0\n1,soon,1\n2,9/30/2024,1\n",
        *("--data.split", "time", "--data.time", "b"),
    ),
    "an encoding that is none": data("data.encoding", CSV, "--data.encoding", "utf-9"),
    "an encoding that is another": data(
        "data.encoding", b"a,y\n\xff,1\n", "--data.encoding", "utf-8"
    ),
    "a quote that is not closed": data(
        "d.csv:[0-9]+: expected 2 columns",
        'a,y\n"1,2\n' + "3,4\n" * 40 + "5\n",
        "--data.delimiter",
        ",",
    ),
    "a missing value": data(
        "d.csv:3, column 'b': the value is missing", "a,b,y\n1,2,0\n1,,1\n2,3,1\n"
    ),
    "a NaN": data("d.csv:3, column 'b': the value is missing", "a,b,y\n1,2,0\n1,nan,1\n2,3,1\n"),
    "an infinite value": data(
        "d.csv:3, column 'b': expected a finite number, found inf; data.missing_values",
        "a,b,y\n1,2,0\n1,inf,1\n2,3,1\n",
    ),
    "a missing target": data(
        "d.csv:3, column 'y': the (target|value) is missing", "a,b,y\n1,2,0\n1,1,\n2,3,1\n"
    ),
    "rows of several widths": data(
        "d.csv:3: expected 3 columns as in the first line, found 2", "a,b,y\n1,2,0\n2,3\n3,4,1,9\n"
    ),
    "one class": data("one class only, '1'", table(a=ROW, y=1)),
    "a target that is numbers": data("looks like numbers, not classes", table(a=ROW, y=ROW / 7)),
    "a binary text file": data("zero bytes", b"a,b\0\n1,2\n"),
    "two columns of one name": data(
        "two columns are called 'a'; rename one", "a,a,y\n1,2,0\n1,2,1\n"
    ),
    "no such target": data("data.target: there is no column 'z'", CSV, "--data.target", "z"),
    "no such target number": data(
        "there is no column 9; the table has 3 columns", CSV, "--data.target", "9"
    ),
    "a pattern that matches nothing": data(
        "no column of d.csv matches 'q.'", CSV, "--data.features", '["q*"]'
    ),
    "no features left": data("no feature columns are left", CSV, "--data.ignore", '["a", "b"]'),
    "only a target": data("no feature columns are left", table(y=ROW % 2)),
    "labels that are no labels": data(
        "expected labels 0 and 1", CSV, "--data.target", '["a", "y"]', "--data.task", "labels"
    ),
    "too many classes for binary": data(
        "needs two classes, found 7", CSV, "--data.target", "a", "--data.task", "binary"
    ),
    "a damaged NPY": data("not an array file", b"\x93NUMPY\x01", name="d.npy"),
    "a flat NPY": Bad("expected rows and columns", flags=["--data.source", "flat.npy"]),
    "an NPY of text": Bad("expected numbers", flags=["--data.source", "text.npy"]),
    "a damaged NPZ": data("d.npz: ", b"PK\x03\x04 not really", name="d.npz"),
    "an NPZ of other arrays": Bad(
        "expected arrays called features and target", flags=["--data.source", "other.npz"]
    ),
    "an NPZ of unequal lengths": Bad(
        "3 rows of features and 2 of target", flags=["--data.source", "unequal.npz"]
    ),
    "a damaged Parquet": data(
        "not a .parquet file, or a damaged one", b"PAR1 but no", name="d.parquet"
    ),
    "parts that are too large": flags(
        "expected less than 1", "--data.test", "0.6", "--data.validation", "0.6"
    ),
    "a part of no rows": flags("is none; give a larger share", "--data.test", "0.001"),
    "groups without a column": flags(
        'command line: data.split: "grouped" needs data.group', "--data.split", "grouped"
    ),
    "a column without groups": data(
        'command line: data.group: is used by data.split = "grouped" alone',
        CSV,
        "--data.group",
        "a",
    ),
    "a negative weight": data(
        "expected a weight >= 0, found -1", table(a=ROW, w=-1, y=ROW % 2), "--data.weight", "w"
    ),
    "weights of zero": data(
        "every row weighs 0", table(a=ROW, w=0, y=ROW % 2), "--data.weight", "w"
    ),
    "a test file with other columns": Bad(
        "d.csv: data.target: there is no column 'target'",
        flags=["--data.test_file", "d.csv"],
        files={"d.csv": CSV},
        lines=1,
    ),
    # --- the model
    "weights of another shape": Bad(
        r"weight: the model has shape \(3, 4\), .* has \(1, 30\)",
        flags=["--model.start", str(REPOSITORY / "configs/models/breast_cancer.safetensors")],
        lines=2,
    ),
    "no weights to start from": flags(
        "there is no such file", "--model.start", "nothing.safetensors"
    ),
    "weights that are none": Bad(
        "not a safetensors file",
        flags=["--model.start", "w.safetensors"],
        files={"w.safetensors": b"\x08\0\0\0\0\0\0\0notjson!"},
    ),
    "a pattern that freezes nothing": flags(
        "no parameter matches 'wieght'; there are weight, bias", "--model.freeze", '["wieght"]'
    ),
    "everything frozen": flags("every parameter is frozen", "--model.freeze", '["*"]'),
    "a group of nothing": flags(
        r"optimizer.groups\[0\]: no parameter matches 'q'",
        "--optimizer.groups",
        '[{parameters = ["q"], lr = 1.0}]',
    ),
    "nesterov alone": flags("nesterov: needs optimizer.momentum", "--optimizer.nesterov", "true"),
    "lbfgs in batches": flags("training.batch_size = 0", "--optimizer.name", "lbfgs"),
    "regression by a logistic model": flags('needs model "linear"', "--data.task", "regression"),
    "no such module": Bad(
        "No module named 'nowhere'",
        flags=["--model.name", "module", "--model.module", "nowhere:Net"],
    ),
    "a module path that is none": Bad(
        'expected "package.module:Class"', flags=["--model.name", "module", "--model.module", "net"]
    ),
    "a module that is none": Bad(
        "is not a class of nn.Module",
        flags=["--model.name", "module", "--model.module", "pathlib:Path"],
    ),
    "class weights of another number": flags(
        "expected 3 numbers for the classes", "--loss.class_weight", "[1.0, 2.0]"
    ),
    "pos_weight for classes": flags(
        "is for binary and multi-label targets", "--loss.pos_weight", "2.0"
    ),
    "a metric of another task": flags(
        "'r2' is not defined for classes", "--metrics.each_epoch", '["r2"]'
    ),
    "a monitor that is not measured": flags(
        "stopping.monitor: expected loss or one of", "--stopping.monitor", "roc_auc"
    ),
    # --- the device and the disk
    "no GPU": flags("pip install", "--device", "cuda"),
    "a folder that is a file": Bad(
        "output.folder: f cannot be written", flags=["--output.folder", "f"], files={"f": ""}
    ),
    # --- while it runs
    "a loss that diverges": flags(
        "loss became (inf|nan) in epoch 1, step .*smaller optimizer.lr",
        "--data.source",
        "diabetes",
        "--model.name",
        "linear",
        "--optimizer.lr",
        "1e20",
        "--output.curves",
        "false",
        code=1,
    ),
    "a module that fails": Bad(
        r"ValueError in .*broken.py:7: no rows today; NANOTORCH_TRACEBACK=1",
        flags=["--model.name", "module", "--model.module", "broken:Net"],
        files={
            "broken.py": "import nanotorch as nt\n\n\nclass Net(nt.nn.Linear):\n"
            "    def forward(self, x):\n        # fails on purpose\n"
            '        raise ValueError("no rows today")\n'
        },
        code=1,
    ),
    # --- other commands
    "predict without a model": Bad(
        "there is no such file", command="predict", flags=["none.safetensors", "iris"]
    ),
    "predict with bare weights": Bad(
        "holds weights alone", command="predict", flags=["bare.safetensors", "iris"]
    ),
    "predict other columns": Bad(
        "there is no column",
        command="predict",
        flags=[str(REPOSITORY / "configs/models/breast_cancer.safetensors"), "iris"],
    ),
    "evaluate a model without a file": Bad(
        "not a run folder",
        command="evaluate",
        flags=[str(REPOSITORY / "configs/models/breast_cancer.safetensors")],
    ),
    "plot nothing": Bad("not a run folder", command="plot", flags=["nowhere"]),
    "plot with a bad weight": Bad(
        "expected 0 <= weight < 1", command="plot", flags=["nowhere", "--smooth", "2"]
    ),
    "export nothing": Bad("there is no such run folder", command="export-csv", flags=["nowhere"]),
    "make no rows": Bad(
        "--rows: expected at least 1", command="make-data", flags=["d.csv", "--rows", "0"]
    ),
    "make an unknown kind": Bad("expected the ending", command="make-data", flags=["d.xls"]),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the few binary files that the table names."""
    monkeypatch.chdir(tmp_path)
    np.save("flat.npy", np.zeros(3))
    np.save("text.npy", np.array([["a", "b"]]))
    np.savez("other.npz", a=np.zeros(3))
    np.savez("unequal.npz", features=np.zeros((3, 2)), target=np.zeros(2))
    safetensors.numpy.save_file({"weight": np.zeros((1, 2), np.float32)}, "bare.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_plain_lines_and_leaves_nothing(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[name]
    (place / "a.toml").write_text(bad.config)
    for file, content in bad.files.items():
        (place / file).write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(place.rglob("*"))
    start = ["a.toml"] if bad.command == "train" else []
    code = exit_code(COMMANDS[bad.command], [*start, *bad.flags], "train.py")
    error = capsys.readouterr().err
    assert code == bad.code
    assert re.search(bad.says, error), error
    assert "Traceback" not in error
    if bad.lines is not None:
        assert len(error.splitlines()) == bad.lines, error
    if bad.code == 2:
        assert sorted(place.rglob("*")) == before


def test_there_are_enough_bad_inputs() -> None:
    assert len(BAD) >= 60


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_without_permission_is_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "a.toml").write_text(GOOD)
    (place / "runs").mkdir(mode=0o500)
    assert exit_code(COMMANDS["train"], ["a.toml"], "train.py") == 2
    assert "cannot be written" in capsys.readouterr().err


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {root!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from nanotorch.training.commands import train
from nanotorch.training.exits import exit_code
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.exit(exit_code(train, sys.argv[1:], "train.py"))
"""


@pytest.mark.parametrize("limit", [100, 3000, 20_000])
def test_a_full_disk_ends_the_run_in_one_line_and_leaves_no_half_files(
    place: Path, limit: int
) -> None:
    """A limit on the size of files fails writes as a full disk does."""
    (place / "a.toml").write_text('[data]\nsource = "digits"\n[training]\nepochs = 60\n')
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK.format(root=str(REPOSITORY), limit=limit), "a.toml"],
        capture_output=True,
        text=True,
        cwd=place,
    )
    assert result.returncode in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert "File too large" in result.stderr
    left = [path.name for path in place.rglob("*")]
    assert not [name for name in left if name.startswith((".writing", ".model", ".summary"))]
