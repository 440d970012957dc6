"""Train a model as a configuration says: python train.py configs/breast_cancer.toml"""

from __future__ import annotations

import sys
from functools import partial

try:
    from nanotorch.training import exit_code, train
except KeyboardInterrupt:  # while there is nobody yet who could tell of it
    sys.stderr.write("train.py: stopped\n")
    sys.exit(130)

if __name__ == "__main__":
    command = partial(train, program="train.py")
    sys.exit(exit_code(command, sys.argv[1:], program="train.py"))
