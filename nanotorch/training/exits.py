"""How a command ends: an exit code, and mistakes in plain lines instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import TextIO

from nanotorch.distributed.group import end_all_ranks
from nanotorch.distributed.launcher import launched
from nanotorch.distributed.world import DistError
from nanotorch.training.errors import InputError, Interrupted, RunFailure, plain

TRACEBACK = "NANOTORCH_TRACEBACK"  # environment variable: any value but 0 shows tracebacks
AFTER_RANK_0 = 0.4  # seconds: what all ranks meet, rank 0 tells and ends them before others do

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
    except RunFailure as error:  # which all ranks meet in the same step, as they do a signal
        return tell(program, [str(error)] if _first() else [], 1)
    except Interrupted as error:
        number = int(signal.Signals[error.signal_name])
        return tell(program, [error.message] if _first() else [], 128 + number)
    except InputError as error:
        return _end(program, error.lines, 2)
    except KeyboardInterrupt:
        return _end(program, ["stopped"], 130)
    except BrokenPipeError:
        # Whoever read the output has gone; writing to a closed pipe again at exit would complain.
        silence(sys.stdout)
        return _end(program, [], 1)
    except MemoryError as error:
        return _end(program, [f"out of memory ({error}): try a smaller training.batch_size"], 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _end(program, [f"{where}{error.strerror or error}"], 1)
    except SystemExit as error:
        if error.code in (None, 0) or not several():
            raise
        return _end(program, [f"the program ended itself with {error.code!r}"], 1)
    except DistError as error:
        return _end(program, [str(error)], 1)
    except Exception as error:
        if os.environ.get(TRACEBACK, "0") != "0":
            raise
        return _end(program, [unexpected(error)], 1)


def several() -> bool:
    """Whether this process is one of several that were started together."""
    return launched()[1] > 1


def _first() -> bool:
    return launched()[2] == 0


def _end(program: str, lines: list[str], code: int) -> int:
    """Tell what one rank has met, perhaps alone, and end the others with it."""
    if several():
        if not _first():
            time.sleep(AFTER_RANK_0)
        program = f"{program}: rank {launched()[2]}"
    tell(program, lines, code)
    end_all_ranks(code)
    return code


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
        print("\n".join(map(plain, text.split("\n"))), file=stream, flush=True)
    except OSError:
        silence(stream)


def pour(file: TextIO) -> None:
    """Copy a text of many lines to the standard output, as it is unless that is a terminal."""
    if not sys.stdout.isatty():
        shutil.copyfileobj(file, sys.stdout)
        return
    for line in file:
        say(line.removesuffix("\n"))


def silence(stream: TextIO) -> None:
    """Let a stream write to nowhere; what is in its buffer would complain at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def tell(program: str, lines: list[str], code: int) -> int:
    for line in lines:
        say(f"{program}: {plain(line)}", aside=True)
    return code
