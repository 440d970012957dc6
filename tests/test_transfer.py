"""Rows on their way to a device: kept there, or copied block by block beside the steps."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy
import pytest
import strict_cupy

import nanotorch as nt
from nanotorch import backend
from nanotorch.backend.cuda import transfer
from nanotorch.training import fit, read_request
from nanotorch.training.data import batches as batches_module
from nanotorch.training.data.batches import Batches
from nanotorch.training.data.parts import FeatureRows, Part
from nanotorch.training.data.standardization import Standardization
from nanotorch.training.devices import choose_place
from nanotorch.training.errors import InputError
from nanotorch.training.run import Run

ROWS = 103


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few batches, so that a hundred rows make many of them."""
    monkeypatch.setattr(batches_module, "BLOCK", 512)
    monkeypatch.setattr(transfer, "BLOCK", 512)


def part_of(kind: str, weighted: bool, on_disk: bool) -> tuple[Part, Any]:
    """Rows whose numbers all differ, of classes or of numbers, in memory or as if on the disk."""
    draw = numpy.random.default_rng(0)
    values = draw.standard_normal((2 * ROWS, 5))
    if on_disk:
        scaling = Standardization(numpy.full(5, 0.5), numpy.full(5, 2.0))
        features = FeatureRows(values, draw.permutation(2 * ROWS)[:ROWS], scaling)
    else:
        features = FeatureRows(values[:ROWS].astype("f"))
    target: Any = draw.integers(0, 3, ROWS)
    if kind == "numbers":
        target = draw.standard_normal((ROWS, 2)).astype("f")
    weights = draw.random(ROWS).astype("f") if weighted else None
    return Part(features, target, weights), weights


def epochs_of(part: Part, weights: Any, **options: Any) -> list[list[Any]]:
    """The bytes of every batch of two epochs, the second one from its fourth batch on."""
    batches = Batches(part, weights, 8, seed=3, **options)
    found = []
    for epoch, start in ((0, 0), (1, 3)):
        for batch in batches.epoch(epoch, start):
            # A copy on the device, as a step would read the batch: nothing waits for the host.
            found.append([None if t is None else t.clone() for t in batch])
    return [[None if t is None else t.cpu().numpy().tobytes() for t in batch] for batch in found]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("dtype", [nt.float32, nt.float64])
@pytest.mark.parametrize("kind, weighted", [("classes", False), ("numbers", True)])
@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_have_the_same_bytes_however_they_come(
    shuffle: bool, dtype: Any, kind: str, weighted: bool, on_disk: bool, cuda: str
) -> None:
    part, weights = part_of(kind, weighted, on_disk)
    options = {"shuffle": shuffle, "dtype": dtype}
    expected = epochs_of(part, weights, device="cpu", **options)
    assert len(expected) == 13 + 10
    for on_device in (True, False):
        assert epochs_of(part, weights, device="cuda", on_device=on_device, **options) == expected


def test_the_order_of_an_epoch_is_moved_once_and_rows_that_lie_there_never(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("crossings are counted on the look-alike alone")
    part, _ = part_of("classes", False, False)
    batches = Batches(part, None, 8, shuffle=True, device="cuda")
    strict_cupy.counts.reset()
    with strict_cupy.no_synchronization():
        assert len(list(batches.epoch(0))) == 13
    assert (strict_cupy.counts.h2d, strict_cupy.counts.d2h) == (1, 0)


def test_rows_that_travel_wait_for_nobody(cuda: str) -> None:
    if cuda == "cupy":
        pytest.skip("waits are counted on the look-alike alone")
    part, weights = part_of("numbers", True, False)
    batches = Batches(part, weights, 8, shuffle=True, device="cuda", on_device=False)
    list(batches.epoch(0))
    before = nt.cuda.memory_allocated()
    strict_cupy.counts.reset()
    with strict_cupy.no_synchronization():
        for _ in batches.epoch(1):
            pass
    blocks = -(-batches.count // batches.block)
    assert blocks > 4
    assert strict_cupy.counts.h2d == 3 * blocks  # features, targets and weights
    assert nt.cuda.memory_allocated() == before


def test_evaluation_goes_over_the_same_rows_in_other_batches(cuda: str) -> None:
    part, _ = part_of("classes", False, True)
    train = Batches(part, None, 8, shuffle=True, device="cuda", on_device=False)
    evaluated = [x.cpu().numpy() for x, _, _ in train.in_order(20).epoch(0)]
    numpy.testing.assert_array_equal(numpy.concatenate(evaluated), part.features.take(slice(None)))
    assert sum(len(x) for x, _, _ in train.epoch(0)) == ROWS


def test_an_epoch_that_is_given_up_leaves_the_next_one_right(cuda: str) -> None:
    part, _ = part_of("classes", False, False)
    ours, theirs = (
        Batches(part, None, 8, seed=1, shuffle=True, device=device, on_device=False)
        for device in ("cuda", "cpu")
    )
    with contextlib.closing(ours.epoch(0)) as given_up:
        for _ in range(3):
            next(given_up)
    found = [x.cpu().tolist() for x, _, _ in ours.epoch(1)]
    assert found == [x.tolist() for x, _, _ in theirs.epoch(1)]


def test_a_whole_set_is_sent_in_blocks_of_pinned_memory(cuda: str) -> None:
    values = numpy.arange(1000, dtype="f").reshape(200, 5)
    sent: list[slice] = []

    def read(rows: slice) -> Any:
        sent.append(rows)
        return values[rows]

    array = transfer.upload(read, 200, ((5,), numpy.float64), nt.device("cuda"))
    assert len(sent) > 10
    assert nt.Tensor._wrap(array).cpu().numpy().tolist() == values.tolist()
    empty = transfer.upload(read, 0, ((5,), numpy.float32), nt.device("cuda"))
    assert empty.shape == (0, 5)


# --- where rows are kept --------------------------------------------------------------------------


def test_rows_are_kept_where_there_is_room_for_them_and_more(cuda: str) -> None:
    device = nt.device("cuda:0")
    free = nt.cuda.mem_get_info(device)[0]
    assert choose_place("auto", 0, nt.device("cpu")) == (True, None)
    assert choose_place("auto", 1_500_000, device) == (True, "1.5 MB of rows lie on cuda:0")
    assert choose_place("yes", 20_000, device)[0]
    kept, words = choose_place("no", 20_000, device)
    assert (kept, words) == (
        False, "20.0 KB of rows stay on the host and are copied to cuda:0 block by block",
    )  # fmt: skip
    kept, words = choose_place("auto", free, device)
    assert not kept
    assert words is not None and "do not fit on cuda:0" in words
    with pytest.raises(InputError, match=r'data\.on_device: "yes", but .* use "auto" or "no"'):
        choose_place("yes", free, device)


def run(folder: Path, *flags: str) -> Path:
    options = ["--output.folder", str(folder), "--output.curves", "false", "--output.report"]
    options += ["false", "--training.epochs", "3", "--device", "cuda", *flags]
    return fit(read_request(["configs/frozen.toml", *options]).configs[0]).folder


def test_a_run_gives_the_same_bytes_wherever_its_rows_lie(
    cuda: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = run(tmp_path / "kept", "--data.on_device", "yes")
    assert "data: " in capsys.readouterr().out
    sent = run(tmp_path / "sent", "--data.on_device", "no")
    assert "copied to cuda block by block" in capsys.readouterr().out
    for name in ("metrics.jsonl", "model.safetensors", "summary.json"):
        assert (kept / name).read_bytes() == (sent / name).read_bytes()


def test_losses_of_weighted_rows_are_read_many_at_once(
    cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cuda == "cupy":
        pytest.skip("copies are counted on the look-alike alone")
    reads = []
    ordinary = Run.read_losses

    def read_losses(self: Run) -> None:
        before = strict_cupy.counts.d2h
        ordinary(self)
        reads.append(strict_cupy.counts.d2h - before)

    monkeypatch.setattr(Run, "read_losses", read_losses)
    run(tmp_path, "--loss.class_weight", "balanced", "--training.batch_size", "2")
    assert len(reads) > 6
    assert max(reads) <= 2  # the losses, and what was noted of indices out of range


# --- what the look-alike sees of the order --------------------------------------------------------

ORDERS: dict[str, tuple[str, bool]] = {  # two streams s and t use x; whether that is in order
    "written here, read there": ("on(s, w); on(t, r)", False),
    "read here, written there": ("on(s, r); on(t, w)", False),
    "written here and there": ("on(s, w); on(t, w)", False),
    "read here and there": ("on(s, r); on(t, r)", True),
    "an event between": ("on(s, w); e.record(s); t.wait_event(e); on(t, r)", True),
    "an event before the write": ("e.record(s); on(s, w); t.wait_event(e); on(t, r)", False),
    "an event that nobody waits for": ("on(s, w); e.record(s); on(t, r)", False),
    "over a third stream": (
        "on(s, w); e.record(s); u.wait_event(e); e.record(u); t.wait_event(e); on(t, w)", True,
    ),
    "after the host waited": ("on(s, w); s.synchronize(); on(t, r)", True),
    "after the host asked": ("on(s, w); e.record(s); e.done; on(t, r)", True),
    "after the host waited for all": ("on(s, r); cp.cuda.Device().synchronize(); on(t, w)", True),
    "a copy to the host": ("on(s, w); x.get(stream=t)", False),
    "through a view": ("on(s, lambda: x[:2].fill(1)); on(t, r)", False),
}  # fmt: skip


@pytest.mark.parametrize("name", ORDERS)
def test_streams_must_be_in_order(name: str) -> None:
    cp = strict_cupy
    x, y = cp.zeros(3), cp.zeros(3)
    s, t, u = (cp.cuda.Stream(non_blocking=True) for _ in range(3))
    cp.cuda.Device().synchronize()

    def on(stream: Any, work: Any) -> None:
        with stream:
            work()

    space = {
        "cp": cp, "x": x, "s": s, "t": t, "u": u, "e": cp.cuda.Event(), "on": on,
        "w": lambda: cp.add(y, y, out=x), "r": lambda: x + x,
    }  # fmt: skip
    statements, in_order = ORDERS[name]
    with contextlib.nullcontext() if in_order else pytest.raises(cp.OutOfOrder):
        exec(statements, space)
    cp.cuda.Device().synchronize()


FORGOTTEN: dict[str, tuple[Any, str, Any]] = {
    "waits between streams": (strict_cupy.cuda.Stream, "wait_event", lambda self, event: None),
    "marks": (strict_cupy.cuda.Event, "record", lambda self, stream=None: None),
    "the host's wait": (transfer._Slot, "wait_until_copied", lambda self: None),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_transfer_that_forgets_to_wait_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.register_cuda_module(strict_cupy)
    try:
        part, _ = part_of("classes", False, False)
        monkeypatch.setattr(*FORGOTTEN[name])
        with pytest.raises(strict_cupy.OutOfOrder):
            epochs_of(part, None, device="cuda", on_device=False, shuffle=True)
    finally:
        backend.register_cuda_module(None)
        strict_cupy.cuda.Device().synchronize()
