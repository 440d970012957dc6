"""PyTorch's files: a zip archive of uncompressed records, one of them a pickle, one per storage.

Nothing that an archive says of itself is believed before it is checked: a record lies in the file,
all records together are no longer than the file, and so no reading takes more memory than that.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy

Array = Any

ALIGNMENT = 64  # bytes: where a record's content may begin, so that others can map it into memory
_HEADER = struct.Struct("<4s22xHH")  # of a record: signature, lengths of its name and extra field
_PADDING = 0x4246  # the kind of extra field that PyTorch pads with

_REMEDY = "open it with PyTorch, and torch.save it again"
# What other files begin with, at which byte, and what they are.
_OTHERS = (
    (0, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", f"of PyTorch before version 1.6; {_REMEDY}"),
    (257, b"ustar", f"a tar file, as of PyTorch before version 0.1.10; {_REMEDY}"),
    (0, b"\x80", "a plain pickle, which could run any code; open it with Python's pickle if you "
     "trust it"),
    (0, b"\x1f\x8b", "compressed with gzip; decompress it first"),
    (0, b"\x93NUMPY", "an array of NumPy; open it with numpy.load"),
    (8, b'{"', "in the format of safetensors; give it a name that ends in .safetensors"),
)  # fmt: skip


class Archive:
    """The records of an archive, which is checked when it is opened.

    RuntimeError in one line for a file that is damaged, cut off, or something else.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        try:
            self.size = file.seek(0, os.SEEK_END)
        except (AttributeError, OSError) as error:
            raise type(error)(
                f"load: expected a file that can seek, got {type(file).__name__}; read it into "
                "io.BytesIO first"
            ) from None
        self._file = _Bounded(file, self.size)
        self._refuse_others()
        try:
            entries = zipfile.ZipFile(self._file).infolist()
        except Exception as error:  # of many kinds, for so many ways to be damaged
            raise self.damaged(f"its directory cannot be read ({error})") from None
        self._entries = {entry.filename: entry for entry in entries}
        self._check(entries)
        tops = [name.removesuffix("data.pkl") for name in self._entries if _is_main(name)]
        if len(tops) != 1:
            raise self.wrong("a zip archive without data.pkl")
        self._top = tops[0]
        if f"{self._top}constants.pkl" in self._entries:
            raise self.wrong("a program of TorchScript; save the state_dict of the module instead")
        # PyTorch can be told to leave checksums out; then all of them are 0.
        self._has_checksums = any(entry.CRC for entry in entries)

    def damaged(self, reason: str) -> RuntimeError:
        """The error for a file that is not as it was written."""
        return RuntimeError(f"load: {self.name} is damaged: {reason}")

    def wrong(self, kind: str) -> RuntimeError:
        """The error for a file of another kind."""
        return RuntimeError(f"load: expected a file of save or torch.save; {self.name} is {kind}")

    def _refuse_others(self) -> None:
        self._file.seek(0)
        start = self._file.read(264)
        if start[:2] == b"PK":
            return
        for position, beginning, kind in _OTHERS:
            if start[position:].startswith(beginning):
                raise self.wrong(kind)
        raise self.wrong("something else" if start else "empty")

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        if len(self._entries) != len(entries):
            raise self.damaged("two records have the same name")
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise self.wrong("a zip archive with compressed or encrypted records")
            if entry.compress_size != entry.file_size:
                raise self.damaged(f"the record {entry.filename!r} has two sizes")
            if not 0 <= entry.header_offset <= self.size:
                raise self.damaged(f"the record {entry.filename!r} lies outside the file")
        if sum(entry.file_size for entry in entries) > self.size:
            raise self.damaged("its records are said to be larger than the file")

    def __contains__(self, name: str) -> bool:
        return self._top + name in self._entries

    def read(self, name: str) -> bytes:
        """The content of a record."""
        content: bytes = self.read_array(name).tobytes()
        return content

    def read_array(self, name: str) -> Array:
        """The content of a record in memory of its own, as an array of bytes."""
        if name not in self:
            raise self.damaged(f"there is no record {name!r}")
        entry = self._entries[self._top + name]
        cut_off = self.damaged(f"the record {name!r} is cut off")
        self._file.seek(entry.header_offset)
        header = self._file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise cut_off
        signature, *lengths = _HEADER.unpack(header)
        if signature != b"PK\x03\x04":
            raise self.damaged(f"there is no record {name!r} where it should be")
        start = entry.header_offset + _HEADER.size + sum(lengths)
        if start + entry.file_size > self.size:
            raise cut_off
        content: Array = numpy.empty(entry.file_size, numpy.uint8)
        self._file.seek(start)
        if not self._file.fill(memoryview(content)):
            raise cut_off
        if self._has_checksums and zlib.crc32(content) != entry.CRC:
            raise self.damaged(f"the record {name!r} does not have its checksum")
        return content


def _is_main(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


class _Bounded:
    """A file of which no more is read than there is: a huge request takes no memory."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self.seek, self.tell = file, size, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        rest = max(self._size - self.tell(), 0)
        return self._file.read(rest if count < 0 else min(count, rest))

    def fill(self, memory: memoryview) -> bool:
        """Reads until the memory is full; False where the file ends before."""
        read_into = getattr(self._file, "readinto", None)
        while memory:
            if read_into is None:
                piece = self._file.read(min(len(memory), 1 << 24))
                memory[: len(piece)] = piece
            count = len(piece) if read_into is None else read_into(memory)
            if not count:
                return False
            memory = memory[count:]
        return True


def write_archive(file: IO[bytes], top: str, records: Iterable[tuple[str, Any]]) -> None:
    """Writes records, names and bytes, below the folder `top`; equal records give equal bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records:
            content = memoryview(content)
            entry = zipfile.ZipInfo(f"{top}/{name}")
            entry.file_size = content.nbytes
            is_long = content.nbytes * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule
            header = _HEADER.size + len(entry.filename.encode()) + 4 + 20 * is_long
            padding = -(archive.start_dir + header) % ALIGNMENT
            entry.extra = struct.pack("<HH", _PADDING, padding) + b"Z" * padding
            with archive.open(entry, "w") as record:
                record.write(content)


@contextlib.contextmanager
def replacement(path: str) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces the one at `path` when it is whole and on the disk.

    What is no regular file, such as a pipe, is written to as it is. RuntimeError where there is no
    such folder.
    """
    path = os.path.realpath(path)  # a link stays a link
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise RuntimeError(f"save: the parent directory {folder} does not exist; create it first")
    mode = os.stat(path).st_mode if os.path.exists(path) else None
    if mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as file:
            yield file
        return
    temporary = os.path.join(folder, f".{name[:200]}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno:
            error.filename = path  # the one that the user knows
        raise
    with contextlib.suppress(OSError):  # not every system lets a folder be synced
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def refusal(text: str) -> pickle.UnpicklingError:
    """The error for a pickle that asks for what is not there."""
    return pickle.UnpicklingError(f"load: {text}")
