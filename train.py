"""Train a model as a configuration says: python train.py configs/breast_cancer.toml"""

from __future__ import annotations

import sys
from functools import partial

from nanotorch.training import exit_code, train

if __name__ == "__main__":
    command = partial(train, program="train.py")
    sys.exit(exit_code(command, sys.argv[1:], program="train.py"))
