"""A compiled step tells what it does: its calls, their times, the memory they share, a picture."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import nanotorch as nt
from nanotorch import nn, optim, viz
from nanotorch.compile import pure, tiles

Batch = tuple[nt.Tensor, nt.Tensor]
LOSSES = {
    "logistic": nn.functional.binary_cross_entropy_with_logits,
    "softmax": nn.functional.cross_entropy,
    "deep": nn.functional.mse_loss,
}


def layers(name: str) -> nn.Module:
    if name == "logistic":
        return nn.Linear(6, 1)
    if name == "softmax":
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    blocks = [(nn.Linear(6, 6), nn.LayerNorm(6), nn.SiLU()) for _ in range(6)]
    return nn.Sequential(*itertools.chain(*blocks))


def made(name: str, rows: int = 24) -> tuple[Callable[..., Any], nn.Module, Batch]:
    """A training step, its model, and a batch."""
    nt.manual_seed(0)
    model = layers(name)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = nt.randn(rows, 6)
    y = {"logistic": nt.rand(rows, 1).round(), "softmax": nt.randint(0, 3, (rows,))}.get(name, x)

    def step(x: nt.Tensor, y: nt.Tensor) -> nt.Tensor:
        optimizer.zero_grad()
        loss = LOSSES[name](model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model, (x, y)


@functools.cache
def explained(name: str, rows: int = 24) -> Any:
    step, _, batch = made(name, rows)
    compiled = nt.compile(step, pure=True)
    compiled(*batch)
    compiled(*batch)
    return compiled.explain(*batch)


# --- in words -------------------------------------------------------------------------------------


def test_a_plan_names_kernels_and_below_them_their_calls() -> None:
    plan = explained("logistic")
    title, heads, *rows, memory = str(plan).splitlines()
    assert title.startswith("plan of step: 5 kernels in 16 calls, ")
    assert heads.split() == ["time", "share", "bytes", "kernel"]
    assert [row[36:] for row in rows] == [
        "SGD.zero_grad",
        *("linear (24, 1)", "    dot", "    add"),
        "binary_cross_entropy_with_logits ()",
        *("    logaddexp", "    multiply", "    subtract", "    dot", "    divide"),
        "    not_equal",
        "binary_cross_entropy_with_logits_reverse (24, 1)",
        *("    negative", "    exp", "    add", "    reciprocal"),
        *("    subtract", "    multiply"),
        *("mm (1, 6)", "sum_to (1,)", "SGD.step"),
    ]
    assert memory == f"memory: {plan.bytes} bytes in 8 blocks, instead of {plan.bytes_apart}"
    read, written = 24 * 6 + 6, 24
    assert plan.calls[1].bytes == 4 * (read + written)


def test_each_call_has_a_time_and_several_replays_give_medians() -> None:
    step, _, batch = made("softmax")
    compiled = nt.compile(step, pure=True)
    compiled(*batch)
    compiled(*batch)
    assert compiled.plan().replays == 0
    assert set(compiled.plan().seconds) == {None}
    assert compiled.explain(*batch).replays == 1
    plan = compiled.explain(*batch)
    assert plan.replays == compiled.plan().replays == 2
    assert all(seconds > 0 for seconds in plan.seconds)
    assert "(medians of 2 replays)" in str(plan)


def test_an_explained_call_is_a_step_like_any_other() -> None:
    weights = []
    for explains in (False, True):
        step, model, batch = made("softmax")
        compiled = nt.compile(step, pure=True)
        for number in range(5):
            (compiled.explain if explains and number > 1 else compiled)(*batch)
        weights.append([p.tolist() for p in model.parameters()])
    assert weights[0] == weights[1]


def test_what_has_no_plan_is_told_in_one_line() -> None:
    step, _, batch = made("logistic")
    compiled = nt.compile(step, pure=True)
    with pytest.raises(RuntimeError, match=r"^explain: step is not recorded yet; call it once"):
        compiled.plan()
    compiled(*batch)
    with pytest.raises(RuntimeError, match=r"step is not recorded with these arguments yet"):
        compiled.explain(nt.ones(3, 6), nt.ones(3, 1))
    eager = nt.compile(lambda x: x * x.sum().item(), warn=False, pure=True)
    eager(nt.ones(2))
    with pytest.raises(RuntimeError, match=r"<lambda> runs eagerly, so it has no plan: .*item"):
        eager.plan()
    with pytest.raises(TypeError, match=r"what nanotorch.compile returns, got function"):
        viz.plan(step)


@pytest.mark.parametrize("pure", [False, True])
def test_a_module_is_explained_without_its_gradients(
    pure: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    model = layers("softmax")
    compiled = nt.compile(model, explain=True, pure=pure)
    x = nt.randn(4, 6)
    with nt.no_grad():
        for _ in range(4):
            compiled(x)
        assert capsys.readouterr().out.count("plan of Sequential: ") == 1
        plan = compiled.explain(x)
    assert plan.calls[0].kernel == "linear"
    assert plan.replays == 1 or pure


def test_a_matched_step_is_explained_with_what_is_left_to_the_engine() -> None:
    step, _, batch = made("logistic")

    def with_a_mask(x: Any, y: Any) -> Any:
        loss = step(x, y)
        return loss + x[x > 0].sum()

    compiled = nt.compile(with_a_mask)
    for _ in range(3):
        compiled(*batch)
    plan = compiled.explain(*batch)
    text = str(plan)
    assert "linear (24, 1)" in text and "binary_cross_entropy_with_logits_reverse" in text
    assert "by the engine: the shape of its output depends on values" in text
    assert plan.bytes == sum(plan.blocks)
    assert viz.plan(compiled).svg().startswith("<?xml")


def test_a_pass_over_rows_is_one_call_with_its_kernels_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "WORTHWHILE_BYTES", 1000)
    monkeypatch.setattr(pure, "WORTHWHILE_BYTES", 1000)
    plan = explained("logistic", rows=64)
    kernels = [call.kernel for call in plan.calls]
    assert kernels[:2] == ["SGD.zero_grad", "one pass over 64 rows, 64 at a time"]
    assert plan.tiled[:2] == ["linear", "binary_cross_entropy_with_logits"]
    assert f"{kernels[1]}\n{' ' * 40}linear\n" in str(plan)


def test_a_step_on_a_gpu_is_explained_without_times(cuda: Any) -> None:
    model = nn.Linear(6, 2).to("cuda")
    x = nt.ones(4, 6, device="cuda")

    @nt.compile(pure=True)
    def step(x: nt.Tensor) -> nt.Tensor:
        model.zero_grad()
        loss = model(x).mean()
        loss.backward()
        return loss

    for _ in range(2):
        step(x)
    for plan in (step.explain(x),):
        assert plan.replays == 0 and set(plan.seconds) == {None}
        assert "linear (4, 2)" in str(plan) and " us" not in str(plan)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_a_block_holds_one_value_at_a_time(name: str) -> None:
    plan = explained(name)
    assert plan.bytes == sum(plan.blocks) <= plan.bytes_apart
    assert plan.bytes_apart == sum(value.bytes for value in plan.values)
    assert {value.block for value in plan.values} == set(range(len(plan.blocks)))
    for number, size in enumerate(plan.blocks):
        held = sorted(v for v in plan.values if v.block == number)
        assert all(value.first <= value.last < len(plan.calls) for value in held)
        assert all(value.bytes <= size for value in held)
        # The call that overwrites a value in place is the last one to read it.
        assert all(a.last <= b.first and not a.stays for a, b in itertools.pairwise(held))


def test_outputs_and_gradients_stay_to_the_end() -> None:
    plan = explained("logistic")
    staying = [value for value in plan.values if value.stays]
    assert [value.shape for value in staying] == [(), (1, 6), (1,)]
    assert {value.last for value in staying} == {len(plan.calls) - 1}


# --- as a picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_picture_is_saved_and_the_same_plan_gives_the_same_bytes(
    suffix: str, start: bytes, tmp_path: Path
) -> None:
    plan = explained("logistic")
    written = []
    for stem in ("a", "b"):
        viz.plan(plan).save(tmp_path / f"{stem}.{suffix}")
        written.append((tmp_path / f"{stem}.{suffix}").read_bytes())
    assert written[0] == written[1] and written[0].startswith(start)


def test_another_ending_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ending in .png, .svg or .pdf, got 'plan.gif'"):
        viz.plan(explained("logistic")).save("plan.gif")


def test_the_picture_says_what_the_plan_does() -> None:
    plan = explained("logistic")
    root = ElementTree.fromstring(viz.plan(plan).svg())
    words = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(plan.memory in word and " us, " in word for word in words)
    for word in ("linear", "binary_cross_entropy_with_logits", "dot (24, 1)", "SGD.step", "96 B"):
        assert word in words


@pytest.mark.parametrize("name", LOSSES)
def test_there_is_a_bar_for_each_call_and_a_box_for_each_value(name: str) -> None:
    step, _, batch = made(name)
    compiled = nt.compile(step, pure=True)
    compiled(*batch)
    plan = compiled.plan()
    above, below = viz.plan(compiled).figure().axes
    bars = [bar.get_height() for bar in above.containers[0]]
    assert bars == [call.bytes for call in plan.calls]  # nothing is timed yet
    boxes = [p for p in below.patches if p.get_zorder() == 3]
    assert len(boxes) == len(plan.values)
    assert len(below.get_yticks()) == len(plan.blocks)


def test_a_kernel_of_one_call_is_named_once() -> None:
    compiled = nt.compile(lambda x: x.exp().sum(), pure=True)
    for _ in range(2):
        compiled(nt.ones(100, 100))
    axes = viz.plan(compiled.explain(nt.ones(100, 100))).figure().axes[0]
    words = [text.get_text() for text in (*axes.texts, *axes.get_xticklabels())]
    assert (words.count("exp"), words.count("sum")) == (1, 1)


@pytest.mark.parametrize("name", LOSSES)
def test_words_in_boxes_neither_leave_them_nor_meet(name: str) -> None:
    plan = explained(name)
    figure = viz.plan(plan).figure()
    figure.draw_without_rendering()
    assert max(figure.get_size_inches()) < 32
    below = figure.axes[1]
    boxes = [p.get_window_extent() for p in below.patches if p.get_zorder() == 3]
    assert below.texts
    for text in below.texts:
        words = text.get_window_extent()
        around = [b for b in boxes if b.x0 <= words.x0 and words.x1 <= b.x1]
        assert any(b.y0 - 1 <= words.y0 and words.y1 <= b.y1 + 1 for b in around), text.get_text()


@pytest.mark.parametrize("pure", [False, True])
def test_compiling_takes_work_in_proportion_to_the_tensors(pure: bool) -> None:
    """Counted are calls of Python functions, among them each item of a generator expression."""

    def work(count: int) -> int:
        weights = [nt.randn(4, requires_grad=True) for _ in range(count)]
        optimizer = optim.SGD(weights, lr=0.01)

        def step(x: Any) -> Any:
            optimizer.zero_grad()
            loss = x.sum()
            for w in weights:
                loss = loss + (w * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        compiled, x, calls = nt.compile(step, pure=pure), nt.randn(4), 0

        def counted(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(counted)
        try:
            for _ in range(3):
                compiled(x)
        finally:
            sys.setprofile(None)
        return calls

    assert work(200) < 5 * work(50)
