"""`save` and `load`: what comes back, what a file cannot do, and the same files as PyTorch's."""

from __future__ import annotations

import base64
import io
import os
import pickle
import random
import stat
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn, serialization

pytestmark = pytest.mark.ring("saving")

REFUSED = (pickle.UnpicklingError, RuntimeError)


def written(obj: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    nt.save(obj, file, **options)
    return file.getvalue()


def read(content: bytes, **options: Any) -> Any:
    return nt.load(io.BytesIO(content), **options)


def again(obj: Any, **options: Any) -> Any:
    return read(written(obj), **options)


def same(a: Any, b: Any) -> bool:
    """Whether two values are of one type and equal, tensors by dtype, strides and elements too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, nt.Tensor):
        return (
            (a.dtype, a.shape, a.stride(), a.requires_grad)
            == (b.dtype, b.shape, b.stride(), b.requires_grad)
        ) and np.array_equal(a.detach()._array, b.detach()._array)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


# --- what comes back ------------------------------------------------------------------------------

DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64")
VALUES: dict[str, Callable[[], Any]] = {
    **{
        name: lambda name=name: nt.tensor([[0, 1, 2], [3, 4, 5]], dtype=getattr(nt, name))
        for name in (*DTYPES, "bool", "complex64", "complex128")
    },
    "uint16, without a storage of its own": lambda: nt.from_numpy(np.arange(4, dtype=np.uint16)),
    "0-dim": lambda: nt.tensor(2.5),
    "empty": lambda: nt.zeros(0, 3),
    "transposed": lambda: nt.arange(6.0).view(2, 3).t(),
    "with gaps": lambda: nt.arange(12.0).view(3, 4)[::2, 1::2],
    "expanded": lambda: nt.tensor([1.0]).expand(3, 4),
    "requires grad": lambda: nt.ones(2, requires_grad=True),
    "parameter": lambda: nn.Parameter(nt.ones(2)),
    "frozen parameter": lambda: nn.Parameter(nt.ones(2), requires_grad=False),
    "buffer": lambda: nn.Buffer(nt.ones(2)),
    "size": lambda: nt.Size([2, 3]),
    "device": lambda: [nt.device("cpu"), nt.device("cuda:1")],
    "dtype": lambda: [nt.float32, nt.bfloat16, nt.int64, nt.bool],
    "numbers": lambda: [1, -1, 255, 65_536, 2**40, -(2**100), 1.5, float("inf"), 1j, True, None],
    "numbers of NumPy": lambda: [np.float32(1.5), np.int64(7), np.bool_(True), np.complex64(1j)],
    "text": lambda: ["", "a", "ä\n\0", "x" * 300, b"\xff\0", bytearray(b"ab")],
    "nested": lambda: {"a": [1, (2, {"b": (), "c": []})], 3: {None: 1.0, (1, "x"): 2}},
    "sets": lambda: [{1, 2}, frozenset("ab"), set()],
    "counter": lambda: Counter("aab"),
    "state_dict": lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict(),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_was_saved_comes_back(name: str) -> None:
    value = VALUES[name]()
    assert same(again(value), value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_since_2_can_be_read(protocol: int) -> None:
    for name, make in VALUES.items():
        value = make()
        assert same(read(written(value, pickle_protocol=protocol)), value), name


def test_attributes_of_tensors_and_of_ordered_dicts_come_back() -> None:
    weight, x = nn.Parameter(nt.ones(2)), nt.ones(2)
    weight.place, x.place = "hidden", {"layer": 3}
    state = nn.Linear(2, 1).state_dict()
    state._metadata = OrderedDict({"": {"version": 1}})  # as PyTorch's have it
    buffer = nn.Buffer(nt.ones(2), persistent=False)
    new = again([weight, x, state, buffer])
    assert type(new[0]) is nn.Parameter and new[0].place == "hidden"
    assert new[1].place == {"layer": 3}
    assert new[2]._metadata == state._metadata
    assert new[3].persistent is False


def test_what_shares_memory_shares_it_again() -> None:
    weight = nt.arange(12.0).view(3, 4)
    views = {"a": weight, "same": weight, "t": weight.t(), "row": weight[1:], "d": weight.detach()}
    new = again(views)
    assert new["same"] is new["a"]
    assert new["row"].stride() == (4, 1) and new["t"].stride() == (1, 4)
    new["a"].zero_()
    assert all(float(view.abs().sum()) == 0 for view in new.values())


def test_only_the_memory_that_is_there_is_written_and_once() -> None:
    weight = nt.zeros(1000, 100)
    assert len(written([weight, weight.t(), weight[0]])) < weight.nbytes + 3000


def test_equal_objects_give_equal_files() -> None:
    state = nn.Linear(3, 2).state_dict()
    assert written(state) == written(state)
    assert written({"a": nt.ones(3)}) == written({"a": nt.ones(3)})


def test_loaded_tensors_own_memory_that_can_be_written() -> None:
    content = written({"a": nt.ones(3)})
    first, second = read(content), read(content)
    first["a"].add_(1)
    assert first["a"].tolist() == [2, 2, 2] and second["a"].tolist() == [1, 1, 1]


def test_a_result_is_saved_as_a_leaf() -> None:
    y = nt.ones(2, requires_grad=True) * 2
    new = again(y)
    assert new.is_leaf and new.requires_grad and new.tolist() == [2, 2]


def test_what_pytorch_cannot_lay_out_is_copied() -> None:
    flipped = nt.Tensor._wrap(np.arange(3.0)[::-1])
    odd = np.zeros(3, dtype=np.dtype([("a", "u1"), ("b", "<f4")]))["b"]
    memory = np.arange(8, dtype=np.float32).tobytes()  # of which no array shows all
    gaps = np.ndarray((2, 2), np.float32, memory, 4, (16, 8))
    new = again([flipped, nt.Tensor._wrap(odd), nt.from_numpy(gaps), nt.from_numpy(gaps)[1]])
    assert new[0].tolist() == [2, 1, 0] and new[1].tolist() == [0, 0, 0]
    assert new[2].tolist() == [[1, 3], [5, 7]] and new[3].tolist() == [5, 7]


def test_memory_that_is_shown_in_two_dtypes_is_refused() -> None:
    numbers = np.ones(4)
    with pytest.raises(RuntimeError, match=r"save: two tensors show the same memory as torch\.f"):
        written([nt.from_numpy(numbers), nt.from_numpy(numbers.view(np.int64))])


def test_a_step_saves_its_optimizer_and_goes_on_from_the_file(tmp_path: Path) -> None:
    def training() -> tuple[Any, Any]:
        nt.manual_seed(0)
        model = nn.Linear(3, 2)
        return model, nt.optim.Adam(model.parameters(), lr=0.1)

    def steps(model: Any, optimizer: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (model(nt.ones(4, 3)) ** 2).sum().backward()
            optimizer.step()

    whole, optimizer = training()
    steps(whole, optimizer, 2)
    nt.save(
        {"epoch": 2, "model": whole.state_dict(), "optimizer": optimizer.state_dict()},
        tmp_path / "checkpoint.pt",
    )
    checkpoint = nt.load(tmp_path / "checkpoint.pt")
    model, new = training()
    model.load_state_dict(checkpoint["model"])
    new.load_state_dict(checkpoint["optimizer"])
    steps(whole, optimizer, 3)
    steps(model, new, 3)
    assert same(model.state_dict(), whole.state_dict())


# --- where it goes --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["str", "Path", "file", "BytesIO"])
def test_paths_and_files(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    if kind == "BytesIO":
        content = written([1, 2])
        path.write_bytes(content)
    elif kind == "file":
        with open(path, "wb") as file:
            nt.save([1, 2], file)
    else:
        nt.save([1, 2], str(path) if kind == "str" else path)
    with open(path, "rb") as file:
        source: Any = {"str": str(path), "Path": path, "file": file}.get(kind)
        assert nt.load(source or io.BytesIO(path.read_bytes())) == [1, 2]


def test_a_file_that_can_only_be_written_to() -> None:
    class Sink:
        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def write(self, piece: Any) -> int:
            self.pieces.append(bytes(piece))
            return len(self.pieces[-1])

        def flush(self) -> None: ...

    sink: Any = Sink()
    nt.save({"a": nt.ones(3)}, sink)
    assert read(b"".join(sink.pieces))["a"].tolist() == [1, 1, 1]


def test_a_file_that_can_read_and_seek_alone() -> None:
    class Source:
        def __init__(self, content: bytes) -> None:
            file = io.BytesIO(content)
            self.read, self.seek, self.tell = file.read, file.seek, file.tell

    source: Any = Source(written({"a": nt.ones(3)}))
    assert nt.load(source)["a"].tolist() == [1, 1, 1]


def test_the_place_of_a_path_is_taken_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    nt.save("old", path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        nt.save([nt.ones(3), lambda: 0], path)

    class Failing:
        def __reduce__(self) -> Any:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        nt.save(Failing(), path)
    assert nt.load(path) == "old" and os.listdir(tmp_path) == ["x.pt"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    nt.save("old", path)

    def full(handle: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        nt.save(nt.ones(1000), path)
    assert nt.load(path) == "old" and os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders of POSIX")
def test_the_file_and_its_name_are_on_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def sync(handle: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append(f"folder with {os.listdir(tmp_path)}" if is_folder else "file")

    monkeypatch.setattr(os, "fsync", sync)
    nt.save(1, tmp_path / "x.pt")
    assert synced == ["file", "folder with ['x.pt']"]


def test_contents_begin_where_they_can_be_mapped_into_memory_also_beyond_two_gigabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in (zipfile.ZIP64_LIMIT, 100):  # as if records above 95 bytes were that long
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        content = written({"a": nt.full((50,), 3.0), "b": nt.full((20,), 5.0)})
        for value, count in ((3, 50), (5, 20)):
            memory = np.full(count, value, np.float32).tobytes()
            assert content.index(memory) % 64 == 0
        assert read(content)["a"].tolist() == [3.0] * 50


@pytest.mark.skipif(sys.platform == "win32", reason="links and modes of POSIX")
def test_links_modes_and_what_is_no_file_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "x.pt", tmp_path / "link.pt"
    nt.save(1, path)
    path.chmod(0o640)
    link.symlink_to(path)
    nt.save(2, link)
    assert link.is_symlink() and nt.load(path) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    nt.save(1, os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the parent directory .*away does not exist"):
        nt.save(1, tmp_path / "away" / "x.pt")
    with pytest.raises(FileNotFoundError):
        nt.load(tmp_path / "x.pt")


def test_what_is_no_file_is_refused() -> None:
    wrong: Any = 3
    with pytest.raises(AttributeError, match="expected a path or a file open for bytes, got int"):
        nt.save(1, wrong)
    with pytest.raises(AttributeError, match="expected a file that can seek, got int"):
        nt.load(wrong)


def test_older_formats_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected Python's pickle and PyTorch's zip format"):
        nt.save(1, tmp_path / "x.pt", _use_new_zipfile_serialization=False)


def test_a_path_in_safetensors_holds_tensors_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"b": nt.arange(6.0).view(2, 3).t(), "a": nt.ones(2, dtype=nt.bfloat16)}
    nt.save(tensors, path)
    new = nt.load(path)
    assert sorted(new) == ["a", "b"]
    assert all(nt.equal(new[name], tensors[name]) for name in tensors)
    with pytest.raises(TypeError, match=r"holds a dict of tensors by name, got 'epoch': int"):
        nt.save({"epoch": 3}, path)
    header = b'{"w": {"dtype": "\\u001b[31m", "shape": [], "data_offsets": [0, 0]}}'
    for content in (path.read_bytes()[:-1], len(header).to_bytes(8, "little") + header):
        path.write_bytes(content)
        with pytest.raises(RuntimeError, match=r"x\.safetensors is no whole safe") as refusal:
            nt.load(path)
        assert str(refusal.value).isprintable()
    with pytest.raises(FileNotFoundError):
        nt.load(tmp_path / "y.safetensors")


# --- devices --------------------------------------------------------------------------------------


def test_tensors_go_where_they_were_or_where_map_location_says(cuda: str) -> None:
    weight = nt.arange(6.0).view(2, 3)
    there = weight.to("cuda")
    content = written({"w": there, "t": there.t(), "row": there[1], "cpu": weight})
    new = read(content)
    assert [new[name].device.type for name in ("w", "t", "row", "cpu")] == ["cuda"] * 3 + ["cpu"]
    for where in ("cpu", nt.device("cpu"), {"cuda:0": "cpu"}, lambda storage, place: storage):
        mapped = read(content, map_location=where)
        assert {tensor.device.type for tensor in mapped.values()} == {"cpu"}
        assert mapped["t"].tolist() == weight.t().tolist()
        mapped["w"].zero_()
        assert float(mapped["row"].abs().sum()) == 0
    moved = read(content, map_location="cuda")
    assert {tensor.device.type for tensor in moved.values()} == {"cuda"}
    assert moved["t"].cpu().tolist() == weight.t().tolist()
    moved["w"].zero_()
    assert float(moved["row"].abs().sum().cpu()) == 0, "they share memory there, too"
    assert read(content, map_location=lambda storage, place: None)["w"].device.type == "cuda"


@pytest.mark.parametrize(
    "x",
    [nt.arange(12.0).view(3, 4)[::2, 1::2], nt.arange(4.0).as_strided((2, 2), (1, 1))],
    ids=["gaps", "shared places"],
)
def test_views_of_no_dense_memory_are_copies_on_a_gpu(x: nt.Tensor, cuda: str) -> None:
    assert again({"x": x}, map_location="cuda")["x"].cpu().tolist() == x.tolist()


def test_a_device_that_is_not_there_is_named_with_what_to_do() -> None:
    content = written({"w": nt.ones(2)})
    for where in ("mps", "cuda:99"):
        with pytest.raises(RuntimeError, match=rf"holds tensors of {where}.*map_location='cpu'"):
            read(content, map_location=where)
    with pytest.raises(TypeError, match="expected a device, its name, a dict or a function"):
        read(content, map_location=3)
    with pytest.raises(TypeError, match="expected map_location to return the storage"):
        read(content, map_location=lambda storage, place: 3)


def test_an_error_of_the_user_s_function_is_the_user_s() -> None:
    def broken(storage: nt.Tensor, place: str) -> nt.Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        read(written(nt.ones(2)), map_location=broken)


# --- files by hand --------------------------------------------------------------------------------


def archive(
    pickled: bytes, records: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> bytes:
    """A file of PyTorch's format, around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        out.writestr("archive/data.pkl", pickled)
        for name, content in (records or {}).items():
            out.writestr(f"archive/{name}", content)
        out.writestr("archive/version", "3\n")
    return file.getvalue()


def storage(
    kind: str = "FloatStorage", count: int = 6, key: str = "0", place: str = "cpu"
) -> bytes:
    """The operations that ask for memory."""
    return (
        b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX\x01\0\0\0" + key.encode()
        + b"X" + struct.pack("<I", len(place)) + place.encode()
        + b"J" + struct.pack("<i", count) + b"tQ"
    )  # fmt: skip


def integers(*numbers: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t"


def tensor(
    offset: int = 0, size: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1),
    memory: bytes = storage(), required: bytes = b"\x89",
) -> bytes:  # fmt: skip
    """The operations that make a tensor, as PyTorch writes them."""
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + memory + b"J" + struct.pack("<i", offset)
        + integers(*size) + integers(*stride) + required + b"ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


SIX = np.arange(6, dtype="<f4").tobytes()


def test_a_file_written_by_hand() -> None:
    pickled = b"\x80\x02}(X\x01\0\0\0a" + tensor() + b"X\x01\0\0\0b" + tensor(1, (2,), (3,)) + b"u."
    new = read(archive(pickled, {"data/0": SIX}))
    assert new["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and new["b"].tolist() == [1, 4]
    new["a"].zero_()
    assert new["b"].tolist() == [0, 0]


def test_memory_in_the_other_byte_order() -> None:
    order = "big" if sys.byteorder == "little" else "little"
    values = np.arange(6, dtype=">f4" if order == "big" else "<f4").tobytes()
    records = {"byteorder": order.encode(), "data/0": values}
    assert read(archive(b"\x80\x02" + tensor() + b".", records)).tolist() == [[0, 1, 2], [3, 4, 5]]


# Written by PyTorch 2.13: torch.save of a dict with a weight and its transpose, and others.
FROM_PYTORCH = (
    r"c-p0wO-~a+7{{l(u#`o46Xiukd@l;6y9HVVg>1}T)<mo^HeQ;g9l9HrmS;OaG%+C(Ks?DsO-zhmz_Z@KkKo04@aDl7"
    r"P4wj1nO!Km+teyfI^DFL|Nr^T?DIU^X^pQ#C>%x=qZPFy-Od{3A|A@=M32tjwN#}U-SLfO?g5}kTA+d@Y~~FDp)4s<"
    r"Sv0diOsgbjY&^4ITDc6tg;LSZEXpEqkx06MDoS*vp2xtu5>d5^I=Sh7DMDR3MAyWiKF!l>c76c_O(4*4Lqi&;@oNy)"
    r"crCOBjT_l)(Xw!sn8iX#yl&^PjdNGcED=HMPeBub11UI|ru#%Qre1>PDuna8t<PbCZ4p`w%4qP0%OF9kA!r<dHYfHf"
    r"v}>VNIJ99f`wjw!Q*h*w^PzJcx>C^X#3ClnLC>y{QExc-N0|k$acgi)3$a}scWrtJoJc{Rqcn7D7EZd#oug5lvyn#2"
    r"r*q07li{>Wc4mj{EF(MTTAn8mNkPA3St58IF8D036$|;Y-9^VP4g=IKL|~BG_4m6rQ369Lh%H2?wTAG+cU#7Hx|Gf7"
    r"s=3pNTFSW-oh{mPI>{_zyF_o0sx*01NMfdMetcSC;n}Qi+Jh2%raP&V(JeDyn8O94D)B&S{?!;AW&o2*@Rg$>xIY54"
    r"p~*79%sqmOEYnnFd_Qq_hh-9CVaBj}`ExfbBjJw>&FG4+Du-gKa_K(+T-W7E`Zh&hbS~5RYKjqcKKZiQMStk3K{Vhe"
    r"l2j#v{vke%y}iZa&221wU;)B4;!XJD$*Pjv_X%uI_Bnf9{Wbf7)k$5A*i-)4aaEc4pWA<j-*ILPk3YWtR(t;~XuQl&"
    r"uBpU+A>ty7{QhPBR_*-nMe<$&I@>Q{+oTnEUuUg1W9C#P`i~$|ERjf#$_aTaF*cSQ8J0%nk(ew=!;(BA#ic}YI60D("
    r"6Jw0>_WI9f5y}y9C_@ak%<1h*trg_K=U7nfZ9ttq<phVSb+Vv|w~6%lOg6nH6`d>S<81_OKA(0TRW_iY+*`HHKKWA~"
    r"1$swN>#ab)Hc}VRN)_0i3i4~82eoog>&<+>wxd3vjR&>f+->p4^=PZyGjB@u`p;TGHIjW=6NG`?(%=WnN-=O<;oR$6"
    r"VYk!;_U8wUH@ctQr(V6_YD8zfyY@Hgsw3?"
)


def test_a_file_of_pytorch_where_it_is_not_installed() -> None:
    new = read(zlib.decompress(base64.b85decode(FROM_PYTORCH)))
    assert new["weight"].tolist() == [[0, 1, 2], [3, 4, 5]] and new["step"].item() == 3
    assert type(new["bias"]) is nn.Parameter and new["bias"].tolist() == [0.5, -1.5]
    assert new["half"].dtype is nt.bfloat16 and new["half"].tolist() == [1.5, 2.5]
    new["weight"][0, 1] = 9.0
    assert new["tied"].tolist() == [[0, 3], [9, 4], [2, 5]] and new["tied"].stride() == (1, 3)


class Canary:
    """Raises when anything calls or imports it."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        self.calls.append("made")

    def __setstate__(self, state: Any) -> None:
        self.calls.append("set")


def sang(*args: Any) -> None:
    Canary.calls.append("called")


HERE = __name__.encode()
ATTACKS = {
    "a function": b"cos\nsystem\n(X\x04\0\0\0truetR.",
    "a function of ours": b"c" + HERE + b"\nsang\n)R.",
    "a class of ours": b"c" + HERE + b"\nCanary\n)\x81.",
    "a class that is only named": b"c" + HERE + b"\nCanary\n.",
    "INST": b"(X\x04\0\0\0trueios\nsystem\n.",
    "OBJ": b"(c" + HERE + b"\nCanary\no.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93(X\x04\0\0\0truetR.",
    "an attribute's attribute": b"\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "an extension": b"\x82\x01.",
    "eval": b"c__builtin__\neval\n(X\x01\0\0\x001tR.",
    "getattr": b"c__builtin__\ngetattr\n.",
    "a submodule": b"ctorch.serialization\nos.system\n.",
    "a module of PyTorch": b"ctorch.nn.modules.linear\nLinear\n)\x81.",
    "a name with control characters": b"cos\x1b[31m\nsys\ttem\n.",
    "calling a value": b"X\x01\0\0\0a)R.",
    "calling a list": b"])R.",
    "calling a tensor": tensor() + b")R.",
    "calling the class of a value": b"ctorch\nFloatStorage\n)R.",
    "calling a dtype": b"ctorch\nfloat32\n)R.",
    "calling without a tuple": b"ctorch\nSize\n]R.",
    "keywords": b"ctorch\nSize\n)}\x92.",
    "the state of a list": b"]}b.",
    "the state of a tensor": tensor() + b"}X\x06\0\0\0_array]sb.",
    "a method of an ordered dict": b"ccollections\nOrderedDict\n)R}X\x05\0\0\0items]sb.",
    "attributes in a tuple": b"ccollections\nOrderedDict\n)R(X\x01\0\0\0atb.",
    "a counter of a list": b"ccollections\nCounter\n(]tR.",
    "the class of an ordered dict": b"ccollections\nOrderedDict\n)R}X\x09\0\0\0__class__]sb.",
    "appending to a dict": b"}K\x01a.",
    "an item of a list": b"]K\0K\x01s.",
    "the state of a dtype of objects": b"cnumpy\ndtype\n(X\x02\0\0\0O8K\0K\x01tR.",
    "an array of NumPy": b"cnumpy._core.multiarray\n_reconstruct\n.",
    "a number of NumPy without bytes":
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0f8K\0K\x01tRJ\0\0\0\0tR.",
    "other memory": b"X\x01\0\0\0aQ.",
    "memory by a path": b"(X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x0b\0\0\0/etc/passwdX\x03\0\0\0cpuK\x06tQ.",
    "memory of another size": tensor(memory=storage(count=7)) + b".",
    "memory of a negative size": tensor(memory=storage(count=-6)) + b".",
    "memory of another dtype": tensor(memory=storage("DoubleStorage")) + b".",
    "memory in two dtypes": tensor() + b"0" + tensor(memory=storage("IntStorage")) + b".",
    "before its memory": tensor(-1) + b".",
    "behind its memory": tensor(1) + b".",
    "far behind its memory": tensor(0, (2, 3), (2**31 - 1, 2**31 - 1)) + b".",
    "negative strides": tensor(5, (2, 3), (-3, -1)) + b".",
    "a negative size": tensor(0, (-1, 3), (3, 1)) + b".",
    "more sizes than strides": tensor(0, (2, 3), (3,)) + b".",
    "65 dimensions": tensor(0, (1,) * 65, (1,) * 65) + b".",
    "a size beyond counting": tensor(0, (2**31 - 1,) * 3, (0,) * 3) + b".",
    "gradients of integers":
        tensor(memory=storage("IntStorage"), required=b"\x88") + b".",
    "a tensor over a value": tensor(memory=b"K\x01") + b".",
    "a size of text": b"ctorch\nSize\n(X\x01\0\0\0atR.",
    "a long array of bytes": b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.",
    "a large number as text": b"c__builtin__\ncomplex\n(X\x01\0\0\x001tR.",
    "another encoding": b"c_codecs\nencode\n(X\x01\0\0\0aX\x05\0\0\0rot13tR.",
    "a list as a key": b"}]K\x01s.",
    "no end": b"K\x01",
    "nothing on the stack": b".",
    "an operation without operands": b"\x87.",
    "no mark": b"t.",
    "an empty memo": b"h\x05.",
    "no pickle": b"\xfe\xfe\xfe",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_pickle_cannot_ask_for_more_than_values(name: str) -> None:
    Canary.calls.clear()
    with pytest.raises(REFUSED) as caught:
        read(archive(b"\x80\x02" + ATTACKS[name], {"data/0": SIX}))
    message = str(caught.value)
    assert message.isprintable() and len(message) < 400, message
    assert Canary.calls == []


def test_a_refusal_names_what_the_file_asked_for_and_what_to_do() -> None:
    with pytest.raises(pickle.UnpicklingError) as caught:
        read(archive(b"\x80\x02cos\nsystem\n."))
    assert str(caught.value) == (
        "load: the file asks for os.system, which is none of the types that weights and plain data "
        "need; if you trust the file, weights_only=False lets it run any code, and "
        "serialization.add_safe_globals allows one class or function"
    )


def test_what_is_no_function_is_not_called() -> None:
    with pytest.raises(pickle.UnpicklingError, match="asks to call a str"):
        read(archive(b"\x80\x02X\x01\0\0\0a)R."))


def test_every_function_of_the_table_checks_its_arguments() -> None:
    """Whatever a pickle hands to what it may call, the answer is a value or one error."""
    arguments = [
        b"N", b"K\x01", b"X\x01\0\0\0a", b"]", b"}", b")", b"J\xff\xff\xff\x7f", b"G" + b"\x7f" * 8,
        b"ctorch\nfloat32\n", b"ctorch\nTensor\n", b"cnumpy\ndtype\n", tensor(), storage(),
        integers(2**31 - 1), b"C\x03abc", b"ctorch._utils\n_rebuild_tensor_v2\n",
    ]  # fmt: skip
    dice = random.Random(0)
    from nanotorch.serialization.tensors import TABLE

    tracemalloc.start()
    for name in TABLE:
        module, _, last = name.rpartition(".")
        called = b"c" + f"{module}\n{last}\n".encode()
        for count in (*range(9), *range(9)):
            given = b"".join(dice.choice(arguments) for _ in range(count))
            for call in (b"R", b"\x81"):
                content = archive(called + b"(" + given + b"t" + call + b".", {"data/0": SIX})
                try:
                    read(content)
                except REFUSED as error:
                    assert str(error).isprintable()
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


# --- memory and time ------------------------------------------------------------------------------


def peak_of_reading(content: bytes, **options: Any) -> int:
    """The most memory that reading took; the file itself is there already."""
    tracemalloc.start()
    try:
        with pytest.raises(REFUSED) as caught:
            read(content, **options)
        assert str(caught.value).isprintable()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def patched(content: bytes, name: str, **fields: int) -> bytes:
    """A zip archive whose directory says something else of a record."""
    at = {"flags": 8, "crc": 16, "packed": 20, "size": 24, "place": 42}
    data, start = (
        bytearray(content),
        content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode())),
    )
    for field, value in fields.items():
        struct.pack_into("<H" if field == "flags" else "<I", data, start + at[field], value)
    return bytes(data)


def many_calls(argument: bytes, call: bytes, count: int = 5000) -> bytes:
    return archive(b"\x80\x02" + argument + b"q\0]" + call * count + b".")


BOMBS: dict[str, Callable[[], bytes]] = {
    "a compressed record": lambda: archive(
        b"\x80\x02" + tensor(memory=storage(count=10**7)) + b".",
        {"data/0": b"\0" * (4 * 10**7)},
        zipfile.ZIP_DEFLATED,
    ),
    "a size that lies": lambda: patched(
        archive(b"N.", {"data/0": SIX}), "data/0", size=2**31, packed=2**31
    ),
    "two sizes": lambda: patched(archive(b"N.", {"data/0": SIX}), "data/0", size=2**31),
    "a place that lies": lambda: patched(
        archive(b"\x80\x02" + tensor() + b".", {"data/0": SIX}), "data/0", place=2**31
    ),
    "records that overlap": lambda: patched(
        archive(b"N.", {"data/0": b"\0" * 10**6, "data/1": SIX}), "data/1",
        size=10**6, packed=10**6, place=0,
    ),
    "a huge index in the memo": lambda: archive(b"]r\xff\xff\xff\xffcos\nsystem\n."),
    "a huge number": lambda: archive(b"\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b"."),
    "a huge text": lambda: archive(b"X\xff\xff\xff\x7fabc."),
    "a huge frame": lambda: archive(b"\x80\x04\x95" + b"\xff" * 8 + b"cos\nsystem\n."),
    "many copies of one set": lambda: many_calls(
        b"](" + b"".join(b"J" + struct.pack("<i", n) for n in range(20_000)) + b"e",
        b"c__builtin__\nset\nh\0\x85Ra",
    ),
    "many copies of one text": lambda: many_calls(
        b"X" + struct.pack("<I", 10**5) + b"a" * 10**5,
        b"c_codecs\nencode\n(h\0X\x06\0\0\0latin1tRa",
    ),
    "a key that takes exponential time": lambda: archive(
        b"K\x01" + b"q\0h\0\x86" * 60 + b"q\0}h\0K\x01s."
    ),
    "a set of such keys": lambda: archive(
        b"\x8f(K\x01" + b"q\0h\0\x86" * 60 + b"\x90."
    ),
    "a deep key": lambda: archive(b"}" + b"K\x01" + b"\x85" * 10**5 + b"K\x01s."),
    "many conjugates of an expanded tensor": lambda: archive(
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("ComplexFloatStorage", 3) + b"K\0"
        + integers(2**30) + integers(0) + b"\x89N}X\x04\0\0\0conj\x88stR.", {"data/0": SIX},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_never_taken_on_a_file_s_word(name: str) -> None:
    content = BOMBS[name]()
    assert peak_of_reading(content) < 256 * len(content) + 2e6


def test_a_deep_nest_is_read_and_freed_without_recursion() -> None:
    nest = read(archive(b"]" * 200_000 + b"a" * 199_999 + b"."))
    depth = 0
    while nest:
        (nest,) = nest
        depth += 1
    assert depth == 199_999


def test_many_values_take_linear_time() -> None:
    values = list(range(100_000))
    assert again(values) == values


# --- damage ---------------------------------------------------------------------------------------


def samples() -> Iterator[bytes]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = nt.optim.Adam(model.parameters())
    model(nt.randn(5, 3)).sum().backward()
    optimizer.step()
    yield written({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    yield written([make() for make in VALUES.values()])


def outcome(content: bytes) -> str:
    """ "" where a damaged file is read, or refused in one printable line; else what happened."""
    try:
        read(content)
    except REFUSED as error:
        return "" if str(error).isprintable() else repr(error)
    except Exception as error:
        return repr(error)
    return ""


@pytest.mark.parametrize("sample", [0, 1])
def test_a_file_that_is_cut_off_anywhere_is_refused_in_one_line(sample: int) -> None:
    content = list(samples())[sample]
    for length in range(0, len(content), 37):
        with pytest.raises(REFUSED) as caught:
            read(content[:length])
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("sample", [0, 1])
def test_a_file_with_flipped_bits_is_read_or_refused_in_one_line(sample: int) -> None:
    content, dice = list(samples())[sample], random.Random(sample)
    for _ in range(1500):
        data = bytearray(content)
        for _ in range(dice.choice((1, 1, 2, 8))):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        assert outcome(bytes(data)) == ""


def test_a_flipped_bit_of_a_weight_is_noticed() -> None:
    content = bytearray(written({"w": nt.full((50,), 3.0)}))
    content[content.index(np.float32(3).tobytes() * 3) + 1] ^= 4
    with pytest.raises(RuntimeError, match=r"is damaged: the record 'data/0' does not have its ch"):
        read(bytes(content))


@pytest.mark.parametrize("sample", [0, 1])
def test_a_damaged_pickle_is_read_or_refused_in_one_line(sample: int) -> None:
    with zipfile.ZipFile(io.BytesIO(list(samples())[sample])) as whole:
        top = whole.namelist()[0].split("/")[0]
        records = {name.removeprefix(f"{top}/"): whole.read(name) for name in whole.namelist()}
    pickled, dice = records.pop("data.pkl"), random.Random(sample)
    records.pop("version")
    for _ in range(1500):
        data = bytearray(pickled)
        for _ in range(dice.choice((1, 1, 2, 8))):
            at = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[at] ^= 1 << dice.randrange(8)
                case 1:
                    del data[at : at + dice.randint(1, 9)]
                case 2:
                    data[at:at] = data[dice.randrange(len(data)) :][: dice.randint(1, 30)]
                case 3:
                    data[at] = dice.choice(b"cRQbtuase.)}](0\x81\x93\x85\x94j\x8a")
        assert outcome(archive(bytes(data), records)) == ""


OTHERS = {
    "empty": (b"", "is empty"),
    "text": (b"import torch\n", "is something else"),
    "before 1.6": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02", "before version 1.6; open"),
    "a plain pickle": (pickle.dumps([1]), "a plain pickle"),
    "tar": (b"\0" * 257 + b"ustar\0", "before version 0.1.10; open it with PyTorch"),
    "gzip": (b"\x1f\x8b\x08", "compressed with gzip"),
    "npy": (b"\x93NUMPY\x01\0", "an array of NumPy"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a":', "in the format of safetensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_formats_are_refused_by_name(name: str) -> None:
    content, words = OTHERS[name]
    with pytest.raises(RuntimeError, match=words.replace(".", r"\.")):
        read(content)


def test_zip_archives_of_others_are_refused_by_name() -> None:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    with pytest.raises(RuntimeError, match=r"a zip archive without data\.pkl"):
        read(file.getvalue())
    with pytest.raises(RuntimeError, match="a program of TorchScript"):
        read(archive(b"N.", {"constants.pkl": b"N."}))
    with pytest.raises(RuntimeError, match="two records have the same name"), pytest.warns():
        file = io.BytesIO(archive(b"N."))
        with zipfile.ZipFile(file, "a") as out:
            out.writestr("archive/data.pkl", b"K\x01.")
        read(file.getvalue())


def test_records_that_are_encrypted_or_begin_at_the_end_are_refused() -> None:
    content = archive(b"\x80\x02" + tensor() + b".", {"data/0": SIX})
    with pytest.raises(RuntimeError, match="with compressed or encrypted records"):
        read(patched(content, "data/0", flags=1))
    with pytest.raises(RuntimeError, match="the record 'data/0' is cut off"):
        read(patched(content, "data/0", place=len(content) - 10))
    with pytest.raises(RuntimeError, match="there is no record 'data/0' where it should be"):
        read(patched(content, "data/0", place=4))


def test_checksums_that_were_left_out_are_not_asked_for() -> None:
    content = archive(b"\x80\x02" + tensor() + b".", {"data/0": SIX})
    for name in ("data.pkl", "data/0", "version"):
        content = patched(content, name, crc=0)
    assert read(content).tolist() == [[0, 1, 2], [3, 4, 5]]


# --- what only the user can allow -----------------------------------------------------------------


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


def test_a_module_is_read_where_any_code_is_allowed() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3))
    content = written(model)
    with pytest.raises(pickle.UnpicklingError, match=r"asks for nanotorch\.nn\.containers\.Sequ"):
        read(content)
    new = read(content, weights_only=False)
    x = nt.randn(4, 2)
    assert nt.equal(new(x), model(x)) and str(new) == str(model)
    assert all(type(parameter) is nn.Parameter for parameter in new.parameters())


def test_any_code_means_values_too() -> None:
    for name, make in VALUES.items():
        value = make()
        assert same(again(value, weights_only=False), value), name


def test_modules_of_pytorch_are_refused_with_what_to_do() -> None:
    with pytest.raises(pickle.UnpicklingError, match="save the state_dict of a module with PyTo"):
        read(archive(b"ctorch.nn.modules.linear\nLinear\n)\x81."), weights_only=False)


def test_one_class_can_be_allowed() -> None:
    content = written([Point(3)])
    with pytest.raises(pickle.UnpicklingError, match=r"asks for .*Point"):
        read(content)
    with serialization.safe_globals([Point]):
        assert read(content)[0].x == 3
        assert serialization.get_safe_globals() == [Point]
    assert serialization.get_safe_globals() == []
    with serialization.safe_globals([Canary]), serialization.safe_globals([Point]):
        assert serialization.get_safe_globals() == [Canary, Point]
    serialization.add_safe_globals([Canary])
    with serialization.safe_globals([Point]):
        pass
    assert serialization.get_safe_globals() == [Canary]  # as before the block
    serialization.add_safe_globals([(Point, "elsewhere.Point")])
    assert read(archive(b"celsewhere\nPoint\n)\x81}X\x01\0\0\0xK\x04sb.")).x == 4
    serialization.clear_safe_globals()
    with pytest.raises(pickle.UnpicklingError):
        read(content)


# --- beside PyTorch -------------------------------------------------------------------------------


def exchanged(source: Any, target: Any, obj: Any) -> Any:
    """What one library saved, loaded by the other, without any code of the file's."""
    file = io.BytesIO()
    source.save(obj, file)
    file.seek(0)
    return target.load(file, weights_only=True)


BOTH_WAYS = pytest.mark.parametrize("back", [False, True], ids=["from torch", "to torch"])
TORCH_VALUES: dict[str, Callable[[Any], Any]] = {
    **{
        name: lambda lib, name=name: lib.tensor([[0, 1, 2], [3, 4, 5]], dtype=getattr(lib, name))
        for name in (*DTYPES, "bool", "complex64", "complex128")
    },
    "0-dim": lambda lib: lib.tensor(2.5),
    "empty": lambda lib: lib.zeros(0, 3),
    "transposed": lambda lib: lib.arange(6.0).view(2, 3).t(),
    "with gaps": lambda lib: lib.arange(12.0).view(3, 4)[::2, 1::2],
    "expanded": lambda lib: lib.tensor([1.0]).expand(3, 4),
    "requires grad": lambda lib: lib.ones(2, requires_grad=True),
    "a result": lambda lib: lib.ones(2, requires_grad=True) * 2,
    "parameter": lambda lib: lib.nn.Parameter(lib.ones(2)),
    "frozen parameter": lambda lib: lib.nn.Parameter(lib.ones(2), requires_grad=False),
    "buffer": lambda lib: lib.nn.Buffer(lib.ones(2)),
    "tied": lambda lib: (lambda w: [w, w.t(), w[1:], w])(lib.arange(6.0).view(2, 3)),
    "plain": lambda lib: {"a": [1, (2.5, None)], 3: {"b", "c"}, "d": b"\xff", "e": 2**70, "f": 1j},
    "ordered": lambda lib: OrderedDict(a=1, b=Counter("aab")),
    "kinds": lambda lib: [lib.Size([2, 3]), lib.float16, lib.bool, lib.device("cuda:1")],
    "state_dict": lambda lib: lib.nn.Sequential(
        lib.nn.Linear(2, 3), lib.nn.BatchNorm1d(3), lib.nn.Embedding(4, 2)
    ).state_dict(),
}


def described(value: Any) -> Any:
    """The same words for the same value of both libraries."""
    if hasattr(value, "requires_grad"):
        kind = "tensor" if type(value).__name__ == "Buffer" else type(value).__name__.lower()
        place = (tuple(value.shape), value.stride(), str(value.dtype), value.requires_grad)
        return kind, place, value.detach().tolist()
    if isinstance(value, dict):
        return type(value).__name__, [(key, described(v)) for key, v in value.items()]
    if isinstance(value, list) or type(value) is tuple:
        return type(value).__name__, [described(v) for v in value]
    if isinstance(value, set):
        return sorted(value)
    return repr(value)


@pytest.mark.torch
@BOTH_WAYS
@pytest.mark.parametrize("name", TORCH_VALUES)
def test_the_other_library_reads_the_same(name: str, back: bool) -> None:
    torch = pytest.importorskip("torch")
    source, target = (nt, torch) if back else (torch, nt)
    source.manual_seed(0)
    value = TORCH_VALUES[name](source)
    assert described(exchanged(source, target, value)) == described(value)


@pytest.mark.torch
@BOTH_WAYS
def test_what_is_tied_in_one_library_is_tied_in_the_other(back: bool) -> None:
    torch = pytest.importorskip("torch")
    source, target = (nt, torch) if back else (torch, nt)
    weight = source.arange(6.0).view(2, 3)
    model = source.nn.Sequential(source.nn.Linear(3, 3), source.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    new = exchanged(source, target, {"w": weight, "t": weight.t(), "model": model.state_dict()})
    new["w"].zero_()
    assert float(new["t"].abs().sum()) == 0
    state = new["model"]
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()


@pytest.mark.torch
def test_tensors_whose_conjugate_or_sign_pytorch_puts_off() -> None:
    torch = pytest.importorskip("torch")
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert exchanged(torch, nt, z.conj()).tolist() == [1 - 2j, 3 + 1j]
    assert exchanged(torch, nt, z.conj().imag).tolist() == [-2, 1]


@pytest.mark.torch
def test_attributes_pass_both_ways() -> None:
    torch = pytest.importorskip("torch")
    for source, target in ((nt, torch), (torch, nt)):
        weight, x = source.nn.Parameter(source.ones(2)), source.ones(2)
        weight.place, x.place = "hidden", {"layer": 3}
        new = exchanged(source, target, [weight, x, source.nn.Buffer(x.clone(), persistent=False)])
        assert new[0].place == "hidden" and new[1].place == {"layer": 3}
        assert isinstance(new[2], target.nn.Buffer) and new[2].persistent is False


@pytest.mark.torch
def test_what_pytorch_refuses_to_save_or_load_safely_is_refused() -> None:
    torch = pytest.importorskip("torch")
    for obj, words in (
        (torch.nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear"),
        (torch.ones(2, 2).to_sparse(), "sparse tensors have one sparse dimension here"),
        (torch.ones(2, device="meta"), r"asks for torch\._utils\._rebuild_meta_tensor"),
        (np.ones(3), r"asks for numpy\._core\.multiarray\._reconstruct"),
    ):
        file = io.BytesIO()
        torch.save(obj, file)
        with pytest.raises(pickle.UnpicklingError, match=words):
            read(file.getvalue())


@pytest.mark.torch
def test_pytorch_maps_our_files_into_memory(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nt.save({"a": nt.arange(1000.0), "b": nt.ones(3)}, tmp_path / "x.pt")
    new = torch.load(tmp_path / "x.pt", mmap=True)
    assert new["a"].tolist() == list(range(1000)) and new["b"].tolist() == [1, 1, 1]
    assert new["a"].data_ptr() % 64 == 0


@pytest.mark.torch
def test_files_without_checksums_and_older_files_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        assert exchanged(torch, nt, torch.ones(2)).tolist() == [1, 1]
    finally:
        torch.serialization.set_crc32_options(before)
    file = io.BytesIO()
    torch.save(torch.ones(2), file, _use_new_zipfile_serialization=False)
    with pytest.raises(RuntimeError, match=r"before version 1\.6; open it with PyTorch"):
        read(file.getvalue())


OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    *[(name, {}) for name in ("AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad")],
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("LBFGS", {"max_iter": 2}),
]


@pytest.mark.torch
@BOTH_WAYS
@pytest.mark.parametrize("name, options", OPTIMIZERS, ids=[f"{n} {o}" for n, o in OPTIMIZERS])
def test_the_other_library_goes_on_from_an_optimizer_s_state(
    name: str, options: dict[str, Any], back: bool
) -> None:
    torch = pytest.importorskip("torch")
    source, target = (nt, torch) if back else (torch, nt)

    def training(lib: Any) -> tuple[Any, Any]:
        model = [
            lib.nn.Parameter(lib.tensor([[1.0, 2.0], [3.0, -1.0]])),
            lib.nn.Parameter(lib.ones(2)),
        ]
        return model, getattr(lib.optim, name)(model, **options)

    def steps(lib: Any, model: Any, optimizer: Any) -> None:
        scale = lib.tensor([[1.0, 2.0], [0.5, 3.0]])

        def closure() -> Any:
            optimizer.zero_grad()
            loss = (model[0] ** 2 * scale).sum() + ((model[1] - 3) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)

    whole, optimizer = training(source)
    steps(source, whole, optimizer)
    state = {"model": [p.data for p in whole], "optimizer": optimizer.state_dict()}
    checkpoint = exchanged(source, target, state)
    model, new = training(target)
    for parameter, value in zip(model, checkpoint["model"]):
        parameter.data.copy_(value)
    new.load_state_dict(checkpoint["optimizer"])
    steps(source, whole, optimizer)
    steps(target, model, new)
    for a, b in zip(whole, model):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 2}),
    ("MultiStepLR", {"milestones": [2, 5]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("CosineAnnealingLR", {"T_max": 6}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3}),
    ("OneCycleLR", {"max_lr": 1.0, "total_steps": 20}),
    ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0}),
    ("ReduceLROnPlateau", {"patience": 1}),
    ("LinearLR", {}),
    ("ConstantLR", {}),
    ("PolynomialLR", {}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.9**epoch}),
]


@pytest.mark.torch
@BOTH_WAYS
@pytest.mark.parametrize("name, options", SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_the_other_library_goes_on_from_a_schedule_s_state(
    name: str, options: dict[str, Any], back: bool
) -> None:
    torch = pytest.importorskip("torch")
    source, target = (nt, torch) if back else (torch, nt)

    def schedule(lib: Any) -> tuple[Any, Any]:
        optimizer = lib.optim.SGD([lib.nn.Parameter(lib.ones(1))], lr=0.1, momentum=0.9)
        return optimizer, getattr(lib.optim.lr_scheduler, name)(optimizer, **options)

    def rates(optimizer: Any, schedule: Any, count: int) -> list[float]:
        out = []
        for _ in range(count):
            optimizer.step()
            schedule.step(*[1.0] * (name == "ReduceLROnPlateau"))
            out.append(optimizer.param_groups[0]["lr"])
        return out

    whole, new = schedule(source), schedule(target)
    rates(*whole, 3)
    checkpoint = exchanged(source, target, [part.state_dict() for part in whole])
    for part, state in zip(new, checkpoint):
        part.load_state_dict(state)
    assert rates(*new, 5) == pytest.approx(rates(*whole, 5), rel=1e-12)


@pytest.mark.torch
@BOTH_WAYS
def test_the_other_library_draws_the_next_random_numbers(back: bool) -> None:
    torch = pytest.importorskip("torch")
    source, target = (nt, torch) if back else (torch, nt)
    source.manual_seed(3)
    source.rand(5)
    with target.random.fork_rng(devices=[]) if back else nt.fork_rng():
        target.set_rng_state(exchanged(source, target, source.get_rng_state()))
        assert target.rand(3).tolist() == source.rand(3).tolist()
