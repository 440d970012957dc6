"""Labels and probabilities for the rows of a file, as CSV."""

from __future__ import annotations

import sys

from nanotorch.training.commands import predict
from nanotorch.training.exits import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(predict, sys.argv[1:], program="predict.py"))
