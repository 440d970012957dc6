"""Kernels in CUDA C without a GPU: compiled by g++ as they are, run on the look-alike's memory.

`cuda_on_host.h` beside this file says what a kernel may use and what a wrong one shows.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import getpass
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy

from strict_cupy import graphs
from strict_cupy.arrays import found, ndarray, one_device
from strict_cupy.contract import happened

COMPILER = shutil.which("g++")
HEADER = Path(__file__).parent / "cuda_on_host.h"
FLAGS = ("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-U_FORTIFY_SOURCE")
# How numbers are rounded: a product and a sum twice, as NumPy does; or as a device does, where both
# are one operation, and numbers too small to be normal become 0.
AS_NUMPY = ("-ffp-contract=off",)
AS_A_DEVICE = ("-ffp-contract=fast", "-fexpensive-optimizations", "-mfma", "-DFLUSH_TO_ZERO")
rounding = [AS_NUMPY]  # the last one holds for kernels that are compiled from now on
LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}
# A multiprocessor has 65,536 registers, and a thread may need 255 of them: that is enough for 256
# threads. For more, the kernel says how many, and the compiler keeps to fewer registers.
ALWAYS_FIT = 256
BOUNDS = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\((\d+)(?:, .*?)?\)\s+)?(\w+)\s*\(")
# How often each kernel was launched, by its C++ name.
launched: collections.Counter[str] = collections.Counter()


class CompileException(Exception):
    """What the compiler says of a kernel."""


class RawModule:
    """The kernels of a source, those of its templates that `name_expressions` names."""

    def __init__(
        self,
        code: str | None = None,
        *,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: Any = None,
        jitify: Any = None,
    ) -> None:
        if not isinstance(code, str) or not isinstance(options, tuple):
            raise TypeError("RawModule: the code is a str, the options are a tuple")
        self.code, self.name_expressions = code, tuple(name_expressions or ())

    def get_function(self, name: str) -> RawKernel:
        """A kernel, for the device that is current now."""
        if name not in self.name_expressions:
            raise KeyError(f"{name} is none of {', '.join(self.name_expressions)}")
        library = compiled(self.code, self.name_expressions, rounding[-1])
        run = library[f"run_{self.name_expressions.index(name)}"]
        return RawKernel(name, run, threads_that_fit(self.code)[name.partition("<")[0]])


def raw_kernel(code: str, name: str, options: tuple[str, ...]) -> RawKernel:
    """CuPy's RawKernel, which tests put in its place where written kernels are to be launched."""
    return RawModule(code, options=options, name_expressions=(name,)).get_function(name)


def threads_that_fit(code: str) -> dict[str, int]:
    """For how many threads of a block the registers of each kernel suffice."""
    return {name: int(bound or ALWAYS_FIT) for bound, name in BOUNDS.findall(code)}


class RawKernel:
    """One kernel: `kernel(grid, block, arguments, shared_mem=0)` runs it at once."""

    def __init__(self, name: str, run: Any, most: int) -> None:
        self.name, self._run, self._most = name, run, most
        run.restype = ctypes.c_char_p

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...],
        *, shared_mem: int = 0,
    ) -> None:  # fmt: skip
        sizes = {"grid": grid, "block": block}
        for what, given in sizes.items():
            fits = 1 <= len(given) <= 3 and all(
                1 <= n <= most for n, most in zip(given, LIMITS[what], strict=False)
            )
            if not fits:
                raise ValueError(f"{self.name}: invalid {what} {given}")
        if numpy.prod(block) > 1024 or not 0 <= shared_mem <= 48 * 1024:
            raise ValueError(f"{self.name}: block {block} with {shared_mem} bytes of shared memory")
        if numpy.prod(block) > self._most:
            raise ValueError(
                f"{self.name}: too many resources requested for launch: {numpy.prod(block)} threads"
                f" where the registers suffice for {self._most}"
            )
        if not isinstance(args, tuple):
            raise TypeError(f"{self.name}: the arguments are a tuple, got {type(args).__name__}")
        values = [self.argument(number, value) for number, value in enumerate(args)]
        pointers = (ctypes.c_void_p * max(len(args), 1))(*(v.ctypes.data for v in values))
        lengths = (ctypes.c_uint * max(len(args), 1))(*(v.itemsize for v in values))
        three = {k: (ctypes.c_uint * 3)(*v, *(1,) * (3 - len(v))) for k, v in sizes.items()}

        def run(held: Any = values) -> None:  # `pointers` point to what is held
            failure = self._run(
                pointers, len(args), lengths, three["grid"], three["block"],
                ctypes.c_size_t(shared_mem),
            )  # fmt: skip
            if failure:
                raise ValueError(f"{self.name}: {failure.decode()}")

        graphs.launched(run, found(list(args)))
        happened("launches", self.name)
        launched[self.name] += 1

    def argument(self, number: int, value: Any) -> Any:
        """An argument as a NumPy array of one element: a pointer, or a number."""
        if isinstance(value, ndarray):
            one_device([value], self.name)
            if not value._host.flags.c_contiguous:
                raise ValueError(
                    f"{self.name}: argument {number} is not C-contiguous: shape {value.shape}, "
                    f"strides {value.strides}"
                )
            return numpy.array([value._host.ctypes.data], numpy.uint64)
        if isinstance(value, numpy.generic):
            return numpy.array([value])
        if isinstance(value, numpy.ndarray) and value.size == 1:  # a struct, passed by value
            return value.reshape(1).copy()
        raise TypeError(
            f"{self.name}: argument {number} is a {type(value).__name__}; expected an array of the "
            "device, or a NumPy scalar or array of one element, whose size is known"
        )


@functools.cache
def compiled(
    code: str, names: tuple[str, ...], rounded: tuple[str, ...] = AS_NUMPY
) -> ctypes.PyDLL:
    """The library of the kernels, kept in a folder of temporary files from one process to the
    next."""
    text = host_source(code, names)
    sign = "\0".join([text, HEADER.read_text(encoding="utf-8"), *FLAGS, *rounded])
    digest = hashlib.sha256(sign.encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"kernels-on-host-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            for name in ("cuda_fp16.h", "cuda_bf16.h"):
                (Path(work) / name).write_text("")  # what they declare is in HEADER
            (Path(work) / "kernels.cpp").write_text(text, encoding="utf-8")
            made = subprocess.run(
                [str(COMPILER), *FLAGS, *rounded, f"-I{HEADER.parent}", f"-I{work}", "kernels.cpp",
                 "-o", "kernels.so"],
                cwd=work, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if made.returncode:
                raise CompileException(made.stderr)
            os.replace(Path(work) / "kernels.so", library)
    return ctypes.PyDLL(str(library))  # which keeps other threads of Python waiting


def host_source(code: str, names: tuple[str, ...]) -> str:
    """The C++ that g++ gets: the kernels, and a function for each that runs it."""
    # The one thing that no macro can turn into C++: an array whose size the launch gives.
    code = re.sub(
        r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w ]+?)\s+(\w+)\[\]\s*;",
        r"\1* \2 = (\1*)cuda_on_host::dynamic_shared;",
        code,
    )
    runs = "\n".join(
        f'extern "C" const char* run_{number}(void** arguments, unsigned given, '
        "const unsigned* sizes, const unsigned* grid, const unsigned* block, size_t shared) {\n"
        f"    return cuda_on_host::start({name}, arguments, given, sizes, grid, block, shared);\n}}"
        for number, name in enumerate(names)
    )
    # Without a name of its own, so that no two instances share memory that is not shared.
    return f'#include "cuda_on_host.h"\nnamespace {{\n{code}\n}}\n{runs}\n'
