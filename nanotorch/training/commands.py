"""The commands: `nanotorch train …`, `nanotorch predict …` and so on."""

from __future__ import annotations

import argparse
import csv
import difflib
import io
import json
import shlex
import sys
from pathlib import Path

import nanotorch as nt
from nanotorch.training.config.command_line import split_arguments
from nanotorch.training.config.reader import Source, check, with_flags
from nanotorch.training.curves import chart_of_runs, figure, save_figure
from nanotorch.training.doctor import print_findings
from nanotorch.training.errors import InputError, RunFailure
from nanotorch.training.evaluation import evaluate_file
from nanotorch.training.exits import Command, exit_code, pour, say, tell
from nanotorch.training.exporting import export_run
from nanotorch.training.files import guarded_cell, refuse_to_replace, write_whole
from nanotorch.training.fit import train
from nanotorch.training.inspection import inspect_file, write_toml
from nanotorch.training.metrics import reason
from nanotorch.training.prediction import Wishes, predict_file
from nanotorch.training.run_folder import METRICS, read_log
from nanotorch.training.synthetic import save, two_clouds


def predict(arguments: list[str]) -> None:
    """Labels and probabilities for the rows of a file, as CSV or Parquet."""
    parser = _parser("predict", predict)
    parser.add_argument("model", type=Path, help="run folder or model.safetensors")
    parser.add_argument("file", help="rows to predict: a data file or a bundled data set")
    words = "CSV file to write, or .parquet; CSV in the terminal if not given"
    parser.add_argument("--output", type=Path, help=words)
    parser.add_argument(
        "--unguarded",
        action="store_true",
        help="write text that begins with = + - @ as it is, also where a spreadsheet would run it",
    )
    _trust(parser)
    parser.add_argument("--keep", action="append", default=[], help="carry this column through")
    parser.add_argument(
        "--threshold", type=float, help="probability from which a row counts as positive"
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    options = parser.parse_args(arguments)
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise InputError(f"--threshold: expected 0 < share < 1, given {options.threshold}")
    wishes = Wishes(options.keep, options.threshold, not options.unguarded, options.force)
    count = predict_file(options.model, options.file, options.output, options.trust_code, wishes)
    if options.output is not None:
        say(f"{count:,} rows predicted; {options.output}")


def inspect(arguments: list[str]) -> None:
    """What is in a data file, what a run would do with it, and a configuration for it."""
    parser = _parser("inspect", inspect)
    parser.epilog = "Any key of [data] may follow, such as --data.delimiter ';'."
    parser.add_argument("file", help="a data file or a bundled data set")
    parser.add_argument("--target", help="name or number of the target column")
    parser.add_argument("--write", type=Path, help="write the configuration to this file")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    options, more = parser.parse_known_args(arguments)
    target = options.target
    if target is not None and target.lstrip("-").isdigit():
        target = int(target)
    known = Source({"data": {"source": options.file, "target": target, "cache": False}})
    config, mistakes = check(with_flags(known, split_arguments(more)[1]))
    if config is None:
        raise InputError(*mistakes)
    inspection = inspect_file(config.data)
    say("\n".join(inspection.lines()))
    if options.write is not None:
        write_toml(inspection, options.write, options.force)
        say(f"\nwritten; now: nanotorch train {shlex.quote(str(options.write))}")


def evaluate(arguments: list[str]) -> None:
    """Every metric of a saved model on the rows of a file that has the target."""
    parser = _parser("evaluate", evaluate)
    parser.add_argument("model", type=Path, help="run folder or model.safetensors")
    parser.add_argument(
        "file",
        nargs="?",
        help="rows with the target; the run's own test rows if not given",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="measure the run's own test rows though its data have changed",
    )
    _trust(parser)
    options = parser.parse_args(arguments)
    changed = options.allow_changed_data
    measured = evaluate_file(options.model, options.file, options.trust_code, changed)
    if options.json:
        say(json.dumps(measured))
        return
    width = max(len(name) for name in measured)
    for name, value in measured.items():
        if name == "confusion":
            say(f"{name:<{width}}  {value}")
        else:
            shown = f"– ({reason(name)})" if value is None else f"{value:.6g}"
            say(f"{name:<{width}}  {shown}")


def export(arguments: list[str]) -> None:
    """A run's model for other programs: ONNX from raw columns on, or a file for PyTorch."""
    parser = _parser("export", export)
    parser.add_argument("model", type=Path, help="run folder or model.safetensors")
    parser.add_argument("--to", choices=("onnx", "torch"), required=True)
    parser.add_argument("--output", type=Path, help="file to write; in the run folder if not given")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    _trust(parser)
    options = parser.parse_args(arguments)
    lines = export_run(options.model, options.to, options.output, options.trust_code, options.force)
    say("\n".join(lines))


def plot(arguments: list[str]) -> None:
    """The curves of one or several runs in one picture."""
    parser = _parser("plot", plot)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--quantity", default="loss", help="loss or a metric of every epoch")
    parser.add_argument("--part", choices=("train", "validation", "both"), default="both")
    parser.add_argument("--log", action="store_true", help="logarithmic axis")
    parser.add_argument("--smooth", type=float, default=0.0, help="weight of the past, 0 to 1")
    parser.add_argument(
        "--output", type=Path, default=Path("curves"), help="NAME.png, NAME.svg, or NAME for both"
    )
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args(arguments)
    if not 0 <= options.smooth < 1:
        raise InputError(f"--smooth: expected 0 <= weight < 1, given {options.smooth}")
    output: Path = options.output
    if output.suffix.lower() in (".png", ".svg"):
        paths = [output]
    elif output.suffix or not output.name:
        raise InputError(f"--output: expected NAME.png, NAME.svg, or NAME for both, given {output}")
    else:
        paths = [output.with_name(f"{output.name}.{kind}") for kind in ("png", "svg")]
    for path in paths:
        refuse_to_replace(path, options.force)
    chart = chart_of_runs(options.runs, options.quantity, options.part, options.log, options.smooth)
    drawn = figure(chart)
    for path in paths:
        say(str(save_figure(drawn, path)))


def export_csv(arguments: list[str]) -> None:
    """The numbers of every epoch as CSV."""
    parser = _parser("export-csv", export_csv)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--output", type=Path, help="CSV file; the terminal if not given")
    parser.add_argument("--force", action="store_true", help="replace the output if it is there")
    options = parser.parse_args(arguments)
    if not options.run.is_dir():
        raise InputError(f"{options.run}: there is no such run folder")
    if options.output is not None:
        refuse_to_replace(options.output, options.force)
    records = read_log(options.run / METRICS)
    columns = list(dict.fromkeys(key for record in records for key in record))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(guarded_cell, columns))
    cells = ([record.get(key) for key in columns] for record in records)
    writer.writerows(["" if c is None else guarded_cell(str(c)) for c in row] for row in cells)
    if options.output is not None:
        write_whole(options.output, file.getvalue().encode("utf-8", "backslashreplace"))
    else:
        file.seek(0)
        pour(file)


def make_data(arguments: list[str]) -> None:
    """Two normal clouds with a known Bayes error, as CSV, NPY or NPZ."""
    parser = _parser("make-data", make_data)
    parser.add_argument("output", type=Path, help="file to write: .csv, .npy or .npz")
    parser.add_argument("--rows", type=int, default=10_000, help="how many; 10,000 if not given")
    parser.add_argument("--features", type=int, default=20, help="how many; 20 if not given")
    parser.add_argument("--distance", type=float, default=2.0, help="between the clouds' centres")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--force", action="store_true", help="replace the file if it is there")
    options = parser.parse_args(arguments)
    refuse_to_replace(options.output, options.force, "output")
    for name in ("rows", "features"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name}: expected at least 1, given {getattr(options, name)}")
    data = two_clouds(options.rows, options.features, options.distance, options.seed)
    save(data, options.output)
    size = f"{options.rows:,} x {options.features}"
    say(f"{size}, Bayes error {data.bayes_error:.4f}; {options.output}")


def doctor(arguments: list[str]) -> None:
    """What this machine has, and what is wrong with it."""
    _parser("doctor", doctor).parse_args(arguments)
    if wrong := print_findings():
        raise RunFailure(f"{wrong} of these are wrong")


COMMANDS: dict[str, Command] = {
    "train": train,
    "inspect": inspect,
    "predict": predict,
    "evaluate": evaluate,
    "export": export,
    "plot": plot,
    "export-csv": export_csv,
    "make-data": make_data,
    "doctor": doctor,
}


def _trust(parser: argparse.ArgumentParser) -> None:
    words = "import the module of somebody's own model; asked for once"
    parser.add_argument("--trust-code", action="store_true", help=words)


def _parser(name: str, command: Command) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"nanotorch {name}", description=command.__doc__)


def main() -> int:
    """`nanotorch COMMAND …`, for those who installed the package."""
    lines = [f"  {name:<11} {command.__doc__}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="nanotorch",
        usage="nanotorch COMMAND …",
        description="Train, measure and apply models from the command line.",
        epilog="\n".join(["commands:", *lines, "", "`nanotorch COMMAND --help` says more."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nanotorch {nt.__version__}")
    parser.add_argument("command", help=argparse.SUPPRESS)
    if sys.argv[1:2] in ([], ["--help"], ["-h"]):
        parser.print_help()
        return 0
    name = sys.argv[1]
    if name == "--version":
        parser.parse_args(["--version"])
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS, "--help", "--version"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        return tell("nanotorch", [f"there is no command {name!r}; {hint}"], 2)
    return exit_code(COMMANDS[name], sys.argv[2:], f"nanotorch {name}")
