"""What every key is, as text for the terminal and as tables for the documentation."""

from __future__ import annotations

import itertools
import json
import textwrap

from nanotorch.training.config.schema import Key, describe
from nanotorch.training.config.sections import Config

USAGE = """\
usage: {program} CONFIG.toml [CONFIG.toml …] [--section.key value …]
       {program} CONFIG.toml --resume [RUN]

Train a model as the configuration says; leave curves, weights and numbers in a run folder.

  --section.key value   set a key over the file; the value is read as TOML, or else as text
  --seed 0,1,2          one run for each seed, and a table of them
  --resume [RUN]        go on with the newest run of that name, or with the run folder RUN
  --trust-code          run the code that a run folder's own module names; asked for once
  --allow-changed-data  with --resume: go on though the data have changed
  --quiet               print no line per epoch
  --schema              print the JSON schema of configurations, for editors
  --help                print this

Keys (with what they accept, and their defaults):
"""


def help_text(program: str) -> str:
    """The usage and every key of the configuration."""
    lines = [USAGE.format(program=program)]
    for section, keys in itertools.groupby(describe(), key=_section):
        lines.append(f"[{section}]" if section else "(top of the file)")
        for key in keys:
            default = "required" if key.default is None else f"default {key.default}"
            only = f"; {key.variant} only" if key.variant else ""
            lines.append(f"  --{key.name}  {key.accepts}; {default}{only}")
            lines += textwrap.wrap(f"{key.meaning}.", 92, initial_indent=" " * 6)
        lines.append("")
    return "\n".join(lines)


def markdown_tables() -> str:
    """The same as one Markdown table per section, for docs/training.md."""
    lines = []
    for section, keys in itertools.groupby(describe(), key=_section):
        lines += [f"### `[{section}]`" if section else "### Top of the file", ""]
        lines += ["| key | accepts | default | meaning |", "|---|---|---|---|"]
        for key in keys:
            name = key.name.rpartition(".")[2]
            only = f" ({key.variant} only)" if key.variant else ""
            default = "required" if key.default is None else f"`{key.default}`"
            default = default.replace("`not set`", "not set")
            accepts = key.accepts.replace("|", "\\|")
            lines.append(f"| `{name}`{only} | {accepts} | {default} | {key.meaning} |")
        lines.append("")
    return "\n".join(lines)


def _section(key: Key) -> str:
    return key.name.rpartition(".")[0]


def json_schema() -> str:
    """The JSON schema of a configuration; editors complete and check TOML files with it."""
    return json.dumps(Config.model_json_schema(), indent=2)
