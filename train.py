"""Train a model as a configuration says: python train.py configs/breast_cancer.toml"""

from __future__ import annotations

import sys

from nanotorch.training import comparison, exit_code, fit, last_line, read_request


def main(arguments: list[str]) -> None:
    """Read the request, train what it asks for, and say how good it became."""
    request = read_request(arguments)
    finished = []
    for config in request.configs:
        run = fit(config, resume=request.resume, quiet=request.quiet)
        print(last_line(run))
        finished.append(run)
    if len(finished) > 1:
        print(comparison(finished))


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:], program="train.py"))
