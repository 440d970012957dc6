"""The ways a run ends with a message instead of a result, and how messages are made safe."""

from __future__ import annotations

import contextlib
import difflib
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path

HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode categories a terminal may act on


def plain(text: str) -> str:
    """One line of text: what a terminal would act on stands as an escape, as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in HIDDEN else c
        for c in text
    )


class InputError(ValueError):
    """Input that cannot be used: one or more lines for the person who gave it; exit code 2."""

    def __init__(self, *lines: str) -> None:
        self.lines = [plain(line) for line in lines]
        super().__init__("\n".join(self.lines))


class RunFailure(RuntimeError):
    """The run started well and could not go on: one line and what to try; exit code 1."""


class Interrupted(BaseException):
    """A signal asked the run to stop; raised at the next safe moment, between two steps."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(signal_name)
        self.signal_name = signal_name
        self.message = f"stopped by {signal_name}"


def needs_extra(feature: str, package: str, extra: str) -> InputError:
    """The line that names the extra to install when `package` is missing for `feature`."""
    return InputError(
        f'{feature}: needs {package}, which is not installed: pip install "nanotorch[{extra}]"'
    )


def no_such_file(path: Path, pattern: str = "*") -> InputError:
    """The line for a path that is not there, with the nearest names of its kind beside it."""
    beside = sorted(other.name for other in path.parent.glob(pattern))
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.5) or beside[:3]
    hint = f"; beside it: {', '.join(near)}" if near else ""
    return InputError(f"{path}: there is no such file{hint}")


@contextlib.contextmanager
def reading(path: Path | str, what: str) -> Iterator[None]:
    """Whatever a reader raises within, ends in one line: `PATH: not WHAT, or a damaged one`.

    Only errors of the disk and the wish to stop pass through; memory that does not suffice is told
    as such.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit, Interrupted):
        raise
    except MemoryError:
        raise InputError(f"{path}: takes more memory than there is") from None
    except BaseException as error:  # a panic in Rust is a BaseException
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: not {what}, or a damaged one") from error
