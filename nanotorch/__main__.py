"""`python -m nanotorch COMMAND …`, the same as `nanotorch COMMAND …`."""

import sys

try:
    from nanotorch.training.commands import main as main
except KeyboardInterrupt:  # while there is nobody yet who could tell of it
    sys.stderr.write("nanotorch: stopped\n")
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
