"""What the command line asks for: configurations, flags, and whether to go on with a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanotorch.training.config.help import help_text, json_schema
from nanotorch.training.config.reader import Flag, Source, find_config, load_source, sweep
from nanotorch.training.config.sections import Config
from nanotorch.training.errors import InputError
from nanotorch.training.trust import code_named, require_trust

NEWEST = "newest"
CONFIG = "config.toml"  # what the configuration in a run folder is called


@dataclass(frozen=True)
class Request:
    """One call of train.py, read but not yet carried out."""

    configs: list[Config]
    sources: list[Source]  # of the same configurations: where each key was set
    resume: str | None = None  # None, NEWEST, or the folder of a run
    quiet: bool = False
    changed_data: bool = False  # go on though the data are not what they were


def read_request(arguments: list[str], program: str = "train.py") -> Request:
    """The configurations that the arguments name, validated; InputError lists every mistake.

    `--help` and `--schema` are answered at once and end the process.
    """
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(help_text(program))
        raise SystemExit(0)
    if "--schema" in arguments:
        print(json_schema())
        raise SystemExit(0)
    trusted, changed = "--trust-code" in arguments, "--allow-changed-data" in arguments
    switches = ("--trust-code", "--allow-changed-data")
    arguments = [word for word in arguments if word not in switches]
    paths, flags, resume, quiet = split_arguments(arguments)
    if not paths:
        if resume is None or resume == NEWEST:
            raise InputError(
                "expected the path of a configuration, such as configs/breast_cancer.toml"
            )
        folder = Path(resume)
        run = folder.parent.parent if folder.parent.name == "checkpoints" else folder
        paths = [run / CONFIG]
    paths = [find_config(path) for path in paths]
    seeds = [flag for flag in flags if flag.path == ("seed",) and "," in flag.text]
    flags = [flag for flag in flags if flag not in seeds]
    flags += [Flag(("sweep", "seed"), flag.text.strip("[]")) for flag in seeds]
    loaded: list[tuple[Config, Source]] = []
    mistakes = []
    for path in paths:
        try:
            loaded += sweep(*load_source(path, flags), flags, path)
        except InputError as error:
            mistakes += error.lines
    if mistakes:
        raise InputError(*mistakes)
    loaded = [(each, source) for config, source in loaded for each in _folds(config)]
    configs = [config for config, _ in loaded]
    for path in paths:
        if path.name == CONFIG:  # of a run folder, and perhaps of somebody else's
            for config in configs:
                require_trust(code_named(config), path, trusted)
    if resume not in (None, NEWEST) and len(configs) > 1:
        raise InputError(f"--resume RUN goes on with one run, and these are {len(configs)}")
    return Request(configs, [source for _, source in loaded], resume, quiet, changed)


def _folds(config: Config) -> list[Config]:
    """A configuration for each fold of a cross-validation, or just the one."""
    if config.data.folds is None or config.data.fold is not None:
        return [config]
    return [
        config.model_copy(update={"data": config.data.model_copy(update={"fold": fold})})
        for fold in range(config.data.folds)
    ]


def split_arguments(arguments: list[str]) -> tuple[list[Path], list[Flag], str | None, bool]:
    """Paths, flags, the run to resume and quietness, in any order."""
    paths: list[Path] = []
    flags: list[Flag] = []
    resume, quiet = None, False
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--quiet":
            quiet = True
        elif word == "--resume":
            follows = bool(rest) and not rest[0].startswith("--") and not rest[0].endswith(".toml")
            resume = rest.pop(0) if follows else NEWEST
        elif word.startswith("--"):
            name, equals, text = word[2:].partition("=")
            if not equals:
                if not rest or rest[0].startswith("--"):
                    raise InputError(f"command line: --{name} needs a value, as in --{name} 1")
                text = rest.pop(0)
            flags.append(Flag(tuple(name.split(".")), text))
        elif word.startswith("-"):
            raise InputError(f"command line: {word}: flags begin with two dashes, as in --seed 1")
        else:
            paths.append(Path(word))
    return paths, flags, resume, quiet
