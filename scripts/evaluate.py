"""Every metric of a saved model on the rows of a file."""

from __future__ import annotations

import sys

from nanotorch.training.commands import evaluate, exit_code

if __name__ == "__main__":
    sys.exit(exit_code(evaluate, sys.argv[1:], program="evaluate.py"))
