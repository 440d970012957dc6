"""Data whose best possible error is known."""

from __future__ import annotations

import sys

from nanotorch.training.commands import make_data
from nanotorch.training.exits import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(make_data, sys.argv[1:], program="make_data.py"))
