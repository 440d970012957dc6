"""The numbers of every epoch of a run as CSV."""

from __future__ import annotations

import sys

from nanotorch.training.commands import export_csv
from nanotorch.training.exits import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(export_csv, sys.argv[1:], program="export_csv.py"))
