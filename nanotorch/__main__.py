"""`python -m nanotorch COMMAND …`, the same as `nanotorch COMMAND …`."""

import sys

from nanotorch.training.commands import main

if __name__ == "__main__":
    sys.exit(main())
