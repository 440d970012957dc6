"""The curves of one or several runs in one picture."""

from __future__ import annotations

import sys

from nanotorch.training.commands import plot
from nanotorch.training.exits import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(plot, sys.argv[1:], program="plot_curves.py"))
