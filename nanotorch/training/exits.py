"""How a command ends: an exit code, and mistakes in plain lines instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TextIO

from nanotorch.training.errors import InputError, Interrupted, RunFailure, plain

TRACEBACK = "NANOTORCH_TRACEBACK"  # environment variable: any value but 0 shows tracebacks

Command = Callable[[list[str]], None]


def exit_code(command: Command, arguments: list[str], program: str) -> int:
    """Run a command: 0 if it went well, 2 for input that cannot be used, 1 for a failed run.

    What went wrong is told on the standard error, in plain lines without a traceback.
    """
    try:
        command(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return 0
    except InputError as error:
        return tell(program, error.lines, 2)
    except RunFailure as error:
        return tell(program, [str(error)], 1)
    except Interrupted as error:
        return tell(program, [error.message], 128 + int(signal.Signals[error.signal_name]))
    except KeyboardInterrupt:
        return tell(program, ["stopped"], 130)
    except BrokenPipeError:
        # Whoever read the output has gone; writing to a closed pipe again at exit would complain.
        silence(sys.stdout)
        return 1
    except MemoryError as error:
        return tell(program, [f"out of memory ({error}): try a smaller training.batch_size"], 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return tell(program, [f"{where}{error.strerror or error}"], 1)
    except Exception as error:
        if os.environ.get(TRACEBACK, "0") != "0":
            raise
        return tell(program, [unexpected(error)], 1)


def unexpected(error: Exception) -> str:
    """One line about an error that nothing foresaw: what, and in which line of which file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    words = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}{place}: {words}; {TRACEBACK}=1 shows the traceback"


def say(text: str, aside: bool = False) -> None:
    """Print a line at once, `aside` to the standard error.

    Where it cannot be written (nobody reads any more, the disk is full), be silent from now on:
    what a command does is not lost with its words.
    """
    stream = sys.stderr if aside else sys.stdout
    if stream is None:  # closed by whoever started the command
        return
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Let a stream write to nowhere; what is in its buffer would complain at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell(program: str, lines: list[str], code: int) -> int:
    for line in lines:
        say(f"{program}: {plain(line)}", aside=True)
    return code
