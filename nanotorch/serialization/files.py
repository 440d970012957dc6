"""`save`, `load`, and what a user lets files name beside tensors and plain data."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Any

from nanotorch.backend import CPU, device as Device, to_device
from nanotorch.serialization.archive import Archive, refusal, replacement, write_archive
from nanotorch.serialization.pickler import Pickler, content
from nanotorch.serialization.safetensors_files import array_bytes, read_arrays
from nanotorch.serialization.tensors import TABLE, Storages
from nanotorch.serialization.unpickler import Unpickler
from nanotorch.tensor import Tensor

File = str | os.PathLike[str] | IO[bytes]
MapLocation = str | Device | dict[str, str] | Callable[[Tensor, str], Tensor | None] | None


def save(
    obj: Any, f: File, pickle_module: Any = pickle, pickle_protocol: int = 2,
    _use_new_zipfile_serialization: bool = True,
) -> None:  # fmt: skip
    """Writes an object to a path or a file open for bytes, in PyTorch's format.

    Tensors, parameters and plain data around them can be loaded by `load` and by `torch.load`; what
    shares memory shares it again. Other objects, such as a Module, are pickled by reference to
    their class, and need `load(…, weights_only=False)`; a module's `state_dict()` does not.

    A path is replaced in one step, when the new file is whole and on the disk. One that ends in
    .safetensors becomes a file of that format, which holds a dict of tensors by name.

    RuntimeError where the path's folder is not there, and for two tensors that show one memory in
    two dtypes; pickle.PicklingError or TypeError for what cannot be pickled.
    """
    if pickle_module is not pickle or not _use_new_zipfile_serialization:
        raise ValueError(
            "save: expected Python's pickle and PyTorch's zip format; the older format and other "
            "modules for pickling are not supported"
        )
    Tensor._tell_of_reading()
    path = os.fspath(f) if isinstance(f, str | os.PathLike) else ""
    if path.endswith(".safetensors"):
        arrays = _named_arrays(obj)
        with replacement(path) as file:
            file.write(array_bytes(arrays))
        return
    if not path and not hasattr(f, "write"):
        raise AttributeError(
            f"save: expected a path or a file open for bytes, got {type(f).__name__}"
        )
    pickle_file = io.BytesIO()
    pickler = Pickler(pickle_file, pickle_protocol)
    try:
        pickler.dump(obj)
    except RecursionError:
        raise RecursionError("save: the object is nested too deeply to be pickled") from None

    def records() -> Iterator[tuple[str, Any]]:
        yield "data.pkl", pickle_file.getbuffer()
        yield "byteorder", sys.byteorder.encode()
        for number, owner in enumerate(pickler.storages):
            yield f"data/{number}", content(owner)
        yield "version", b"3\n"

    top = os.path.splitext(os.path.basename(path))[0] or "archive"
    target: Any = replacement(path) if path else nullcontext(f)
    with target as file:
        write_archive(file, top, records())


def load(
    f: File, map_location: MapLocation = None, pickle_module: Any = None, *,
    weights_only: bool | None = None, mmap: bool | None = None, **pickle_load_args: Any,
) -> Any:  # fmt: skip
    """The object that `save` or `torch.save` wrote to a path or to a file open for bytes.

    `map_location` says where tensors go: a device or its name; a dict from the device that they
    were on to another; or a function (storage, location) that returns the storage, a tensor of one
    dimension, on a device of its choice, or None. None: where they were. `mmap` changes nothing.

    Nothing is imported or called on a file's word: it may hold tensors, parameters, buffers, sizes,
    devices, dtypes, NumPy's numbers, and Python's plain values, lists, tuples, dicts, ordered
    dicts, counters and sets. `weights_only=False` reads any pickle, which can run any code: only
    for files whose source you trust.

    pickle.UnpicklingError for a file that asks for more, RuntimeError for one that is damaged, of
    another format, or whose device is not there: each in one line.
    """
    if map_location is not None and not callable(map_location):
        if not isinstance(map_location, str | Device | dict):
            raise TypeError(
                "load: expected a device, its name, a dict or a function as map_location, got "
                f"{type(map_location).__name__}"
            )
    path = os.fspath(f) if isinstance(f, str | os.PathLike) else ""
    if path.endswith(".safetensors"):
        return _load_safetensors(path, map_location)
    with _opened(f) as file:
        archive = Archive(file, path or str(getattr(f, "name", "the file")))
        storages = Storages(archive, map_location)
        pickle_bytes = archive.read("data.pkl")
        if weights_only or weights_only is None:
            return Unpickler(archive.name, storages, _safe_globals).load(pickle_bytes)
        return _AnyUnpickler(io.BytesIO(pickle_bytes), storages, pickle_load_args).load()


def _opened(f: Any) -> Any:
    return open(f, "rb") if isinstance(f, str | os.PathLike) else nullcontext(f)


class _AnyUnpickler(pickle.Unpickler):
    """Reads any pickle, with our tensors where PyTorch's are named; it can run any code."""

    def __init__(self, file: IO[bytes], storages: Storages, options: dict[str, Any]) -> None:
        super().__init__(file, **options)
        self._storages = storages

    def persistent_load(self, identity: Any) -> Any:
        return self._storages(identity)

    def find_class(self, module: str, name: str) -> Any:
        value = TABLE.get(f"{module}.{name}")
        if value is None and module.split(".")[0] == "torch":
            raise refusal(
                f"the file asks for {module}.{name}, which is PyTorch's own; save the state_dict "
                "of a module with PyTorch, and load that"
            )
        return super().find_class(module, name) if value is None else value


def _named_arrays(obj: Any) -> dict[str, Any]:
    items = list(obj.items()) if isinstance(obj, dict) else [("", obj)]
    for name, value in items:
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise TypeError(
                "save: a .safetensors file holds a dict of tensors by name, got "
                f"{name!r}: {type(value).__name__}; a path that ends in .pt holds anything"
            )
    return {name: to_device(value._array, CPU) for name, value in items}


def _load_safetensors(path: str, map_location: Any) -> dict[str, Tensor]:
    if not isinstance(map_location, str | Device | None):
        raise RuntimeError("load: for a .safetensors file, map_location is a device or its name")
    place = CPU if map_location is None else Device(map_location)
    with open(path, "rb"):  # for Python's error where there is no such file
        pass
    try:
        arrays, _ = read_arrays(path)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # of the library's own kinds; a panic in Rust is no Exception
        raise RuntimeError(
            f"load: {path} is no whole safetensors file: {ascii(str(error))[1:-1]}"
        ) from None
    return {name: Tensor._wrap(to_device(array, place)) for name, array in arrays.items()}


# --- what the user trusts beside the table --------------------------------------------------------

_safe_globals: dict[str, Any] = {}


def add_safe_globals(safe_globals: Iterable[Any]) -> None:
    """Lets files name these classes and functions, or (class, "module.name") pairs, from now on.

    `load` then calls them with arguments of the file's choice.
    """
    for entry in safe_globals:
        value, name = entry if isinstance(entry, tuple) else (entry, None)
        _safe_globals[name or f"{value.__module__}.{value.__qualname__}"] = value


def get_safe_globals() -> list[Any]:
    """What `add_safe_globals` has added."""
    return list(_safe_globals.values())


def clear_safe_globals() -> None:
    """Takes back all that `add_safe_globals` has added."""
    _safe_globals.clear()


@contextmanager
def safe_globals(safe_globals: Iterable[Any]) -> Iterator[None]:
    """Adds safe globals for the files that are loaded within the block."""
    before = dict(_safe_globals)
    add_safe_globals(safe_globals)
    try:
        yield
    finally:
        _safe_globals.clear()
        _safe_globals.update(before)
