"""The configuration of a run: one model per section, one field per key."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nanotorch.training.config.choices import (
    SGD,
    Constant,
    Count,
    Fraction,
    Logistic,
    Model,
    Natural,
    NotNegative,
    Optimizer,
    Positive,
    Schedule,
    Section,
)

MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "precision_micro",
    "precision_macro",
    "recall_micro",
    "recall_macro",
    "f1_micro",
    "f1_macro",
    "roc_auc",
    "pr_auc",
    "log_loss",
    "brier",
    "calibration_error",
    "mse",
    "mae",
    "r2",
]
Column = str | int


def size_of(text: Any) -> Any:
    """The number in "2**20" or "1048576"; ValueError for anything else."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*(\d+)\s*(?:\*\*\s*(\d{1,2}))?\s*", text)
    if match is None:
        raise ValueError(f'expected a number of buckets, such as 1048576 or "2**20", got {text!r}')
    return int(match[1]) ** int(match[2] or 1)


Buckets = Annotated[int, BeforeValidator(size_of), Field(ge=2, le=2**40)]


class Reading(Section):
    """Which file is read, and how it is written; what is not set is guessed."""

    source: str = Field(
        description="bundled data set (breast_cancer, diabetes, digits, iris, wine) or a file: "
        ".csv .tsv .txt .data (also .gz .bz2 .xz .zip) .npy .npz .parquet .feather .jsonl .svm"
    )
    header: bool | None = Field(
        default=None, description="whether the first line names the columns; guessed if not set"
    )
    delimiter: str | None = Field(
        default=None,
        description='what stands between cells: one character, or "spaces"; guessed if not set',
        pattern=r"^([^\r\n\"]|spaces)$",
    )
    encoding: str | None = Field(
        default=None, description="of the text: utf-8, latin-1, utf-16 …; guessed if not set"
    )
    decimal: Literal[".", ","] | None = Field(
        default=None, description="between whole and fraction; guessed if not set"
    )
    thousands: Literal[",", ".", " ", "'"] | None = Field(
        default=None, description="between groups of three digits; guessed if not set"
    )
    comment: str | None = Field(
        default=None, description="lines that begin with this are left out; guessed if not set"
    )
    missing_values: list[str | int | float] | None = Field(
        default=None,
        description='cells that are missing, besides empty ones; "NA", "?", "-" and their like '
        "if not set",
    )
    sparse: bool = Field(
        default=False,
        description="keep the rows of a .svm file as they are stored, without their zeros; they "
        "are not standardized",
    )
    cache: bool = Field(
        default=True, description="keep a converted copy beside text files over 16 MB"
    )


class Data(Reading):
    """What is learned from, and how it is divided."""

    target: Column | list[Column] | None = Field(
        default=None,
        description="name or number of the target column or columns; the last one if not set",
    )
    features: list[str] = Field(
        default=[], description="patterns of feature columns; all others if empty"
    )
    ignore: list[str] = Field(default=[], description="patterns of columns that are left out")
    weight: Column | None = Field(default=None, description="column that weighs the rows")
    task: Literal["auto", "binary", "classes", "labels", "regression"] = Field(
        default="auto", description="what the target is; auto looks at its values"
    )
    types: dict[str, Literal["number", "category", "boolean", "date"]] = Field(
        default={},
        description='what columns are, where a guess is wrong: {rooms = "number"}; a cell that is '
        "no number is missing then",
    )
    max_categories: Annotated[int, Field(ge=2)] = Field(
        default=100,
        description="features that a text column becomes at most; its rarest values share one",
    )
    hash: dict[str, Buckets] = Field(
        default={},
        description="number of buckets for columns, by pattern: {user = 1048576} or "
        '{"user*" = "2**20"}: each value gets a weight of its own, up to that many',
    )
    missing: Literal["refuse", "mean", "median", "drop"] = Field(
        default="refuse",
        description="what is done with missing feature values; all but refuse also leave out rows "
        "without a target",
    )
    standardize: bool = Field(
        default=True,
        description="shift and scale features to mean 0, deviation 1 of the training part",
    )
    test_file: str | None = Field(default=None, description="a file of its own for the test part")
    test: Fraction = Field(default=0.2, description="share of the rows held out for the test")
    validation: Fraction = Field(
        default=0.2, description="share of the rows that choose the best epoch"
    )
    split: Literal["stratified", "random", "grouped", "time"] = Field(
        default="stratified",
        description="how rows are divided: by class, at random, by group, by time",
    )
    folds: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="cross-validation: so many runs, each with another part of the rows that are "
        "not held out for the test as its validation rows",
    )
    fold: Natural | None = Field(
        default=None, description="the one fold to train, counted from 0; all if not set"
    )
    group: Column | None = Field(default=None, description="column whose values stay in one part")
    time: Column | None = Field(
        default=None, description="column that orders the rows, oldest first"
    )
    split_seed: Natural | None = Field(
        default=None, description="seed of the split; that of the run if not set"
    )
    memory: str | None = Field(
        default=None,
        description='bytes that the rows may take in memory, as "2 GB"; those of a larger .npy, '
        ".parquet or text file stay on the disk and are read in blocks; 1 GB if not set, or half "
        "the machine's memory",
        pattern=r"^[0-9]+([.][0-9]+)? ?([kKMGT]?B)$",
    )
    on_device: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description="keep all rows on the GPU, or copy them there block by block as it computes; "
        "auto keeps them there if they fit",
    )


class Loss(Section):
    """How rows and classes count in the loss."""

    class_weight: Literal["none", "balanced"] | list[NotNegative] = Field(
        default="none",
        description="weight of each class; balanced is rows / (classes * rows of the class)",
    )
    pos_weight: Positive | list[Positive] | None = Field(
        default=None, description="weight of the positive rows (binary and multi-label targets)"
    )
    label_smoothing: Fraction = Field(
        default=0.0, description="share of the target spread over all classes"
    )


class Penalty(Section):
    """Elastic net: l1 * sum |w| + l2 / 2 * sum w^2 is added to the loss that is minimized."""

    l1: NotNegative = Field(default=0.0, description="weight of the absolute values")
    l2: NotNegative = Field(default=0.0, description="weight of the squares")
    parameters: list[str] = Field(
        default=["*weight"], description="patterns of the parameters it counts"
    )


class Training(Section):
    """The loop."""

    epochs: Count = Field(default=100, description="passes over the training part")
    batch_size: Natural = Field(
        default=32, description="rows in a batch; 0 takes all of them at once"
    )
    shuffle: bool = Field(default=True, description="a new order of the rows in each epoch")
    drop_last: bool = Field(default=False, description="leave out a last batch that is short")
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="precision of all numbers"
    )
    precision: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="of training steps: with 16 bits, products compute in them and the loss in "
        "float32 (autocast), and float16 scales the loss; weights and evaluation keep the dtype",
    )
    accumulate: Count = Field(default=1, description="batches whose gradients make one step")
    clip_norm: Positive | None = Field(
        default=None, description="largest norm of all gradients together"
    )
    clip_value: Positive | None = Field(
        default=None, description="largest absolute value of a gradient"
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="replay a step's kernels from a recording, on a GPU as one CUDA graph; auto "
        "where it can be",
    )
    steps_per_launch: Count = Field(
        default=1,
        description="on a GPU, steps that are one launch; 1 where a schedule changes the learning "
        "rate from step to step. Signals and checkpoints wait for the end of a launch",
    )
    shards: Count | None = Field(
        default=None,
        description="cut each batch into so many shards, whose gradients are added in one fixed "
        "order on one thread each: the same bits on any number of ranks, at most one a shard",
    )
    rank_timeout: Positive = Field(
        default=300.0,
        description="seconds that ranks wait for one that does not answer before the run ends",
    )
    time_limit: Positive | None = Field(
        default=None, description="minutes after which the run ends"
    )
    evaluation_batch: Count = Field(default=8192, description="rows evaluated at once")


class Stopping(Section):
    """Which epoch is the best, and when to stop waiting for a better one."""

    monitor: str = Field(
        default="loss",
        description="value that chooses the best epoch: loss or a metric, on validation rows",
    )
    patience: Count | None = Field(
        default=None, description="epochs without improvement before stopping"
    )
    min_change: NotNegative = Field(default=0.0, description="smallest improvement that counts")
    restore_best: bool = Field(default=True, description="end with the weights of the best epoch")


class Metrics(Section):
    """What is measured besides the loss."""

    each_epoch: list[MetricName] | None = Field(
        default=None,
        description="metrics of every epoch; accuracy, or r2 for regression, if not set",
    )
    training_part: bool = Field(
        default=False, description="measure the training part too, with an evaluation of its own"
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["f1"] = Field(
        default=0.5,
        description="probability from which a row counts as positive; f1 chooses it at the end, by "
        "the F1 of the validation rows (two classes)",
    )
    calibration_bins: Count = Field(default=10, description="bins of the calibration error")


class Checkpoint(Section):
    """How often the state of the run is saved."""

    every_seconds: Positive = Field(default=30.0, description="seconds between two checkpoints")
    every_epochs: Count | None = Field(default=None, description="epochs between two checkpoints")
    every_steps: Count | None = Field(default=None, description="steps between two checkpoints")
    keep: Count = Field(default=2, description="newest checkpoints that are kept")


class Output(Section):
    """What is written into the run folder and the terminal."""

    folder: str = Field(default="runs", description="where run folders are made")
    curves: bool = Field(default=True, description="draw curves as PNG and SVG")
    curves_of: list[str] = Field(
        default=["loss"], description="what is drawn: loss, or metrics of every epoch as well"
    )
    redraw_seconds: Positive = Field(
        default=10.0, description="seconds between two drawings in the run"
    )
    log_scale: Literal["auto", "always", "never"] = Field(
        default="auto", description="logarithmic loss axis; auto from a factor of 100 on"
    )
    smoothing: Fraction = Field(default=0.0, description="weight of the past in the smoothed curve")
    report: bool = Field(default=True, description="write report.html")
    tensorboard: bool = Field(default=False, description="write TensorBoard events as well")
    callbacks: list[str] = Field(
        default=[],
        description='classes of one\'s own that watch the run, as "package.module:Class"',
    )


class Config(Section):
    """Everything that decides the result of a run."""

    name: str = Field(
        default="run",
        description="run folders are called NAME-1, NAME-2 and so on; the file's name if not set",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    seed: Natural = Field(default=0, description="source of every random number of the run")
    device: str = Field(
        default="auto",
        description='"cpu", "cuda", "cuda:1" …; auto takes a GPU if there is one',
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
    )
    data: Data
    model: Model = Logistic()
    loss: Loss = Loss()
    penalty: Penalty = Penalty()
    optimizer: Optimizer = SGD()
    schedule: Schedule = Constant()
    training: Training = Training()
    stopping: Stopping = Stopping()
    metrics: Metrics = Metrics()
    checkpoint: Checkpoint = Checkpoint()
    output: Output = Output()
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default={}, description='values to try, by dotted key: "optimizer.lr" = [0.1, 0.01]'
    )


def flat_values(config: Config) -> dict[str, Any]:
    """Every value of a configuration by its dotted key."""

    def flat(tables: dict[str, Any], prefix: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in tables.items():
            if isinstance(value, dict):
                values |= flat(value, f"{prefix}{name}.")
            else:
                values[prefix + name] = value
        return values

    return flat(config.model_dump(), "")


def differences(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values (None where a key is absent)."""
    first, second = flat_values(one), flat_values(other)
    return {
        key: (first.get(key), second.get(key))
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    }
