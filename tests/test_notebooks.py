"""What a notebook shows: tensors, modules, histories, and a curve that is drawn while it grows."""

from __future__ import annotations

import base64
import html
import io
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.training import LiveCurve, fit
from nanotorch.training.callbacks import progress_bar
from nanotorch.training.live import history_png, notebook

pytestmark = [pytest.mark.ring("viz"), pytest.mark.ring("training")]

TEXT_ALONE = {
    "a number": nt.tensor(3.0),
    "a vector": nt.arange(5),
    "one row": nt.ones(1, 9),
    "nothing": nt.ones(0, 3),
    "three dimensions": nt.randn(3, 32, 32) * 2,
    "a small image": nt.rand(3, 8, 8),
    "integers of three dimensions": nt.ones(3, 32, 32, dtype=nt.int64),
    "two channels": nt.rand(2, 32, 32),
    "complex numbers": nt.ones(3, 3, dtype=nt.complex64),
}


@pytest.mark.parametrize("name", TEXT_ALONE)
def test_a_tensor_of_which_a_picture_says_no_more_shows_its_text(name: str) -> None:
    assert TEXT_ALONE[name]._repr_html_() is None


def test_a_sparse_gradient_shows_its_text() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    table(nt.tensor([1, 2])).sum().backward()
    assert table.weight.grad.is_sparse and table.weight.grad._repr_html_() is None


def test_a_tensor_with_a_tangent_shows_its_text() -> None:
    from nanotorch.autograd import forward_ad

    with forward_ad.dual_level():
        assert forward_ad.make_dual(nt.ones(3, 3), nt.ones(3, 3))._repr_html_() is None


def cells(page: str) -> list[list[str]]:
    """The texts of a table, row by row, without its heads."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)[1:]
    return [[html.unescape(x) for x in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


MATRICES = {
    "floats": nt.tensor([[1.5, -2.0], [0.25, 3.0]]),
    "integers": nt.tensor([[10, -2], [3, 4]]),
    "booleans": nt.tensor([[True, False], [False, True]]),
    "float64": nt.tensor([[1e-9, 1.0], [2.0, 3.0]], dtype=nt.float64),
    "float16": nt.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=nt.float16),
    "not finite": nt.tensor([[float("nan"), float("inf")], [-float("inf"), 1.0]]),
    "zeros": nt.zeros(2, 3),
    "a parameter": nn.Parameter(nt.tensor([[1.0, 2.0], [3.0, 4.0]])),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_matrix_is_a_table_of_the_numbers_that_its_text_has(name: str) -> None:
    matrix = MATRICES[name]
    page = matrix._repr_html_()
    numbers = re.findall(r"[^\s,\[\]()]+", str(matrix))
    texts = [text for row in cells(page) for text in row]
    assert [number for number in numbers if number in texts][: len(texts)] == texts
    assert str(tuple(matrix.shape)) in page and str(matrix.dtype) in page
    assert ("requires_grad" in page) == matrix.requires_grad


def test_the_colour_tells_sign_and_size() -> None:
    page = nt.tensor([[4.0, -4.0], [2.0, 0.0]])._repr_html_()
    first, second, third, fourth = re.findall(r"<td style=\"([^\"]*)\"", page)
    assert "rgba(217,98,43,0.70)" in first and "rgba(47,111,179,0.70)" in second
    assert "rgba(217,98,43,0.35)" in third and "background" not in fourth


def test_a_long_matrix_shows_its_ends() -> None:
    rows = cells(nt.arange(600).reshape(200, 3)._repr_html_())
    assert rows[0] == ["0", "1", "2"] and rows[5] == ["…"] * 3 and rows[-1] == ["597", "598", "599"]
    assert len(rows) == 11
    (row, _) = cells(nt.arange(60).reshape(2, 30)._repr_html_())
    assert row == ["0", "1", "2", "3", "4", "…", "25", "26", "27", "28", "29"]


def pixels(page: str) -> Any:
    from PIL import Image

    (data,) = re.findall(r"base64,([^\"]*)", page)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_large_matrix_is_a_picture_of_its_values() -> None:
    matrix = nt.zeros(40, 30)
    matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[1, 0] = 2.0, -2.0, -1.0, float("nan")
    page = matrix._repr_html_()
    image = pixels(page)
    assert image.shape == (40, 30, 3)
    assert image[0, :4].tolist() == [[217, 98, 43], [47, 111, 179], [151, 183, 217], [255] * 3]
    assert image[1, 0].tolist() == [160] * 3
    assert "from -2 to 2" in page
    thinned = nt.arange(1200 * 20).reshape(1200, 20)._repr_html_()
    assert pixels(thinned).shape == (400, 20, 3) and "400 rows and 20 columns" in thinned


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [nt.uint8, nt.float32, nt.float16])
def test_values_of_an_image_are_shown_as_the_image(channels: int, dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256, (channels, 20, 24), dtype=np.uint8)
    image = nt.from_numpy(values)
    image = image if dtype == nt.uint8 else (image / 255).to(dtype)
    expected = values.transpose(1, 2, 0) if channels == 3 else values[0]
    difference = pixels(image._repr_html_()).astype(int) - expected
    assert np.abs(difference).max() <= (1 if dtype == nt.float16 else 0)


# Modules


class Hostile(nn.Module):
    def extra_repr(self) -> str:
        return "<script>alert(1)</script>"


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_a_module_shows_its_tree() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()))
    model[0].weight.requires_grad_(False)
    page = model._repr_html_()
    text = words(page)
    assert text.startswith("Sequential 24 parameters, 12 of them frozen 0: Linear (in_features=3")
    assert "weight (4, 3) frozen bias (4,) trainable" in text
    assert "running_mean (4,), a buffer" in text
    assert "1: ReLU no parameters" in text
    assert page.count("<details open>") == page.count("<details") == page.count("</details>") == 4


def test_a_shared_parameter_is_counted_once_and_said_to_be() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    text = words(model._repr_html_())
    assert "Sequential 9 parameters, all trainable" in text
    assert text.count("shared with the one above") == 1


def test_a_large_module_is_folded() -> None:
    page = nn.Sequential(*(nn.Linear(2, 2) for _ in range(30)))._repr_html_()
    assert page.count("<details open>") == 1 and page.count("<details") == 31


def test_what_a_module_says_of_itself_is_text() -> None:
    assert "<script>" not in Hostile()._repr_html_()


# Curves


class Shell:
    """What a notebook's shell has, as far as it is asked: a kernel, and events."""

    kernel = object()

    def __init__(self) -> None:
        self.events = self
        self.waiting: list[Any] = []
        self.pictures: list[bytes] = []
        self.updates: list[bytes] = []

    def register(self, event: str, function: Any) -> None:
        assert event == "post_run_cell"
        self.waiting.append(function)

    def unregister(self, event: str, function: Any) -> None:
        self.waiting.remove(function)

    def display(self, image: bytes, display_id: bool) -> Any:
        self.pictures.append(image)
        return types.SimpleNamespace(update=self.updates.append)

    def end_cell(self) -> None:
        for function in list(self.waiting):
            function("the result of the cell")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    shell = Shell()
    package: Any = types.ModuleType("IPython")
    package.get_ipython, package.version_info = lambda: shell, (9, 0)
    package.display = types.ModuleType("IPython.display")
    package.display.Image = lambda content, width: content
    package.display.display = shell.display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", package.display)
    yield shell


def is_png(content: Any) -> bool:
    return isinstance(content, bytes) and content.startswith(b"\x89PNG")


def test_a_live_curve_is_one_picture_drawn_anew(shell: Shell) -> None:
    curve = LiveCurve(seconds=1000.0)
    for epoch in range(1, 6):
        curve.add(epoch=epoch, loss=1 / epoch)
    assert len(shell.pictures) == 1 and shell.updates == []  # too early for another one
    shell.end_cell()
    assert len(shell.pictures) == len(shell.updates) == 1 and shell.waiting == []
    assert all(map(is_png, shell.pictures + shell.updates))
    assert shell.updates[0] == history_png(curve.records)


def test_outside_of_a_notebook_a_live_curve_draws_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Shell, "kernel")  # IPython in a terminal
    curve = LiveCurve(seconds=0.0)
    curve.add(loss=1.0)
    assert notebook() is None and progress_bar() is None
    monkeypatch.delitem(sys.modules, "IPython")
    curve.add(loss=0.5)
    assert notebook() is None
    assert shell.pictures == shell.updates == shell.waiting == []
    assert curve.records == [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_in_a_notebook_draws_its_loss(
    quiet: bool, shell: Shell, tmp_path: Any, capsys: Any
) -> None:
    x = np.arange(60.0)
    config = {"training": {"epochs": 3}, "output": {"folder": str(tmp_path)}}
    run = fit(config, data={"x": x, "z": x % 7, "y": x > 29}, quiet=quiet)
    shell.end_cell()
    assert len(shell.pictures) == (0 if quiet else 1)
    assert is_png(run._repr_png_())


def test_a_resumed_run_draws_its_curve_from_the_start(shell: Shell, tmp_path: Any) -> None:
    x = np.arange(60.0)
    data = {"x": x, "z": x % 7, "y": x > 29}
    config: Any = {"training": {"epochs": 3}, "output": {"folder": str(tmp_path)}}
    run = fit(config, data=data, quiet=True)
    curve = LiveCurve("accuracy")
    config["training"] = {"epochs": 5}
    fit(config, resume=str(run.folder), data=data, quiet=True, callbacks=[curve])
    assert [record["epoch"] for record in curve.records] == [1, 2, 3, 4, 5]
    assert len(shell.pictures) == 1


def test_estimators_draw_their_curves(shell: Shell) -> None:
    pytest.importorskip("sklearn")
    from nanotorch.interop.sklearn import NeuralRegressor

    x = np.random.default_rng(0).standard_normal((40, 2))
    curve = LiveCurve(seconds=0.0)
    model = NeuralRegressor(hidden=(4,), max_iter=3, callbacks=[curve], early_stopping=True)
    model.fit(x, x[:, 0])
    assert [set(r) for r in curve.records] == [{"epoch", "loss", "validation_loss"}] * 3
    assert model.history_ == curve.records and is_png(model.history_._repr_png_())
    assert model.history_._repr_png_() == history_png(curve.records)


def test_records_without_the_quantity_have_no_picture() -> None:
    assert history_png([]) is None
    assert history_png([{"epoch": 1, "accuracy": 0.5}]) is None
    assert is_png(history_png([{"epoch": 1, "loss": None}, {"epoch": 2, "loss": 0.5}]))


def test_a_notebook_has_a_progress_bar(shell: Shell) -> None:
    bar = progress_bar()(total=2, file=io.StringIO())
    bar.update()
    bar.close()
    assert bar.n == 1
