"""Models as ONNX files: what onnxruntime computes from them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanotorch as nt
from nanotorch import nn
from nanotorch.nn import functional as F

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from nanotorch.interop.onnx import ExportError, export  # noqa: E402

pytestmark = pytest.mark.ring("interop")


class Function(nn.Module):
    """A module that computes a function, of a module that it has and its input."""

    def __init__(self, function: Callable[..., Any], part: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.part = function, part

    def forward(self, x: Any) -> Any:
        return self.function(x) if self.part is None else self.function(self.part, x)


def rows(*shape: int) -> nt.Tensor:
    return nt.randn(*shape, generator=nt.Generator().manual_seed(1))


FLAT, STEPS, IMAGES, SERIES = rows(3, 8), rows(3, 5, 8), rows(3, 4, 9, 10), rows(3, 4, 12)
WORDS = nt.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


def flat(value: Any) -> list[np.ndarray]:
    if isinstance(value, nt.Tensor):
        return [value.numpy()]
    return [array for part in value for array in flat(part)]


def agrees(model: nn.Module, example: Any, tmp_path: Path) -> None:
    """The exported model gives the same for the example, for more rows and for a single one."""
    path = tmp_path / "model.onnx"
    export(model, example, path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    model.eval()
    for x in (example, nt.cat([example.flip(0), example[:2]]), example[:1]):
        with nt.no_grad():
            expected = flat(model(x))
        results = session.run(None, {name: x.numpy()})
        assert len(results) == len(expected)
        for result, array in zip(results, expected, strict=True):
            assert result.dtype == array.dtype
            assert result.shape == array.shape
            np.testing.assert_allclose(result, array, rtol=1e-5, atol=1e-5)


MODULES: list[tuple[str, Callable[[], nn.Module], nt.Tensor]] = [
    ("Linear", lambda: nn.Linear(8, 4), FLAT),
    ("Linear without bias, over steps", lambda: nn.Linear(8, 4, bias=False), STEPS),
    *(
        (name, (lambda name=name: getattr(nn, name)()), FLAT)
        for name in (
            *("ReLU", "ReLU6", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "Tanh"),
            *("Softplus", "LogSigmoid", "Hardtanh", "Hardsigmoid", "Hardswish", "Hardshrink"),
            *("Softshrink", "Tanhshrink", "Softsign", "LeakyReLU", "PReLU", "Identity", "Flatten"),
        )
    ),
    ("GELU by tanh", lambda: nn.GELU("tanh"), FLAT),
    ("Softmax", lambda: nn.Softmax(-1), FLAT),
    ("LogSoftmax", lambda: nn.LogSoftmax(1), FLAT),
    ("BatchNorm1d", lambda: nn.BatchNorm1d(8), FLAT),
    ("BatchNorm2d", lambda: nn.BatchNorm2d(4), IMAGES),
    ("LayerNorm", lambda: nn.LayerNorm(8), STEPS),
    ("LayerNorm plain", lambda: nn.LayerNorm((5, 8), elementwise_affine=False), STEPS),
    ("GroupNorm", lambda: nn.GroupNorm(2, 4), IMAGES),
    ("InstanceNorm2d", lambda: nn.InstanceNorm2d(4), IMAGES),
    ("LocalResponseNorm", lambda: nn.LocalResponseNorm(3), IMAGES),
    ("Dropout", lambda: nn.Dropout(0.5), FLAT),
    ("Conv1d", lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=2), SERIES),
    ("Conv2d", lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), IMAGES),
    ("Conv2d grouped", lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), IMAGES),
    ("Conv2d reflecting", lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), IMAGES),
    (
        "ConvTranspose2d",
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        IMAGES,
    ),
    ("ConvTranspose1d", lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), SERIES),
    ("MaxPool2d", lambda: nn.MaxPool2d(3, 2, ceil_mode=True), IMAGES),
    ("MaxPool1d", lambda: nn.MaxPool1d(3, 2, padding=1), SERIES),
    ("AvgPool2d", lambda: nn.AvgPool2d(3, 2, padding=1), IMAGES),
    ("AvgPool2d inner", lambda: nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), IMAGES),
    ("AdaptiveAvgPool2d", lambda: nn.AdaptiveAvgPool2d((4, 3)), IMAGES),
    ("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d(2), IMAGES),
    ("Upsample", lambda: nn.Upsample(scale_factor=2), IMAGES),
    ("Upsample bilinear", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGES),
    ("ZeroPad2d", lambda: nn.ZeroPad2d(1), IMAGES),
    ("ReplicationPad2d", lambda: nn.ReplicationPad2d(1), IMAGES),
    ("Unfold", lambda: nn.Unfold((2, 3), dilation=(2, 1), padding=(1, 2), stride=(1, 2)), IMAGES),
    ("Unfold plain", lambda: nn.Unfold(2), IMAGES),
    (
        "Fold",
        lambda: nn.Sequential(nn.Unfold(2, padding=1), nn.Fold(IMAGES.shape[2:], 2, padding=1)),
        IMAGES,
    ),
    ("Embedding", lambda: nn.Embedding(10, 4), WORDS),
    ("EmbeddingBag", lambda: nn.EmbeddingBag(10, 4, padding_idx=2), WORDS),
    ("EmbeddingBag sum", lambda: nn.EmbeddingBag(10, 4, mode="sum"), WORDS),
    ("RNN", lambda: nn.RNN(8, 6, nonlinearity="relu", batch_first=True, bias=False), STEPS),
    ("GRU", lambda: nn.GRU(8, 6, 2, bidirectional=True, batch_first=True), STEPS),
    ("LSTM", lambda: nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True), STEPS),
    ("LSTM projected", lambda: nn.LSTM(8, 6, proj_size=3, batch_first=True), STEPS),
    ("LSTMCell", lambda: nn.LSTMCell(8, 5), FLAT),
    *(
        (name, (lambda name=name, options=options: getattr(nn, name)(*options)), example)
        for name, options, example in (
            ("AdaptiveAvgPool1d", (3,), SERIES),
            ("AdaptiveMaxPool1d", (3,), SERIES),
            ("AlphaDropout", (0.5,), FLAT),
            ("AvgPool1d", (2,), SERIES),
            ("ChannelShuffle", (2,), IMAGES),
            ("CircularPad1d", (1,), SERIES),
            ("CircularPad2d", (1,), IMAGES),
            ("ConstantPad1d", (1, 2.0), SERIES),
            ("ConstantPad2d", (1, 2.0), IMAGES),
            ("Dropout1d", (0.5,), SERIES),
            ("Dropout2d", (0.5,), IMAGES),
            ("GLU", (), FLAT),
            ("GRUCell", (8, 5), FLAT),
            ("InstanceNorm1d", (4,), SERIES),
            ("PixelShuffle", (2,), IMAGES),
            ("PixelUnshuffle", (2,), IMAGES[:, :, :8]),
            ("RMSNorm", (8,), FLAT),
            ("RNNCell", (8, 5), FLAT),
            ("ReflectionPad1d", (2,), SERIES),
            ("ReflectionPad2d", (1,), IMAGES),
            ("ReplicationPad1d", (1,), SERIES),
            ("Softmax2d", (), IMAGES),
            ("Softmin", (1,), FLAT),
            ("Threshold", (0.1, 2.0), FLAT),
            ("Unflatten", (1, (2, 4)), FLAT),
            ("UpsamplingBilinear2d", (None, 2), IMAGES),
            ("UpsamplingNearest2d", (None, 2), IMAGES),
            ("ZeroPad1d", (1,), SERIES),
        )
    ),
    ("Bilinear", lambda: Function(lambda m, x: m(x, x * 2), nn.Bilinear(8, 8, 3)), FLAT),
    (
        "CosineSimilarity",
        lambda: Function(lambda m, x: m(x * 1e13, x + 1), nn.CosineSimilarity()),
        FLAT,
    ),
    (
        "PairwiseDistance",
        lambda: Function(lambda m, x: m(x, x + 1), nn.PairwiseDistance()),
        FLAT,
    ),
    (
        "MultiheadAttention",
        lambda: Function(lambda m, x: m(x, x, x), nn.MultiheadAttention(8, 2, batch_first=True)),
        STEPS,
    ),
    (
        "TransformerEncoder",
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        STEPS,
    ),
    *(
        (name, (lambda make=make: Function(lambda m, x: m(x, x * 2), make())), STEPS)
        for name, make in (
            (
                "TransformerDecoderLayer",
                lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True),
            ),
            (
                "TransformerDecoder",
                lambda: nn.TransformerDecoder(
                    nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2
                ),
            ),
            ("Transformer", lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True)),
        )
    ),
    (
        "TransformerEncoderLayer",
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        STEPS,
    ),
    (
        "LeNet",
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
        ),
        IMAGES,
    ),
]


CONTAINERS = {
    *("Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"),
    *("RNNBase", "RNNCellBase"),
}


def test_steps_before_rows_are_open_along_the_axis_of_rows(tmp_path: Path) -> None:
    nt.manual_seed(0)
    model, example = nn.GRU(8, 4).eval(), STEPS.transpose(0, 1)
    with pytest.raises(ExportError, match="is batch_axis right"):
        export(model, example, tmp_path / "a.onnx")
    export(model, example, tmp_path / "a.onnx", batch_axis=1)
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    for x in (example, example[:, :1], nt.cat([example, example], 1)):
        with nt.no_grad():
            expected = flat(model(x))
        results = session.run(None, {session.get_inputs()[0].name: x.contiguous().numpy()})
        for result, array in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, array, rtol=1e-5, atol=1e-5)


def test_every_layer_is_tried() -> None:
    names = {
        name
        for name in dir(nn)
        if isinstance(kind := getattr(nn, name), type) and issubclass(kind, nn.Module)
    }
    layers = {name for name in names - CONTAINERS if not name.endswith("Loss")}
    layers -= {name for name in layers if name.startswith("Lazy")}  # ordinary ones once called
    assert layers - {case[0].split()[0] for case in MODULES} == set()


@pytest.mark.parametrize(("make", "example"), [c[1:] for c in MODULES], ids=[c[0] for c in MODULES])
def test_a_module_gives_the_same_in_onnxruntime(
    make: Callable[[], nn.Module], example: nt.Tensor, tmp_path: Path
) -> None:
    nt.manual_seed(0)
    agrees(make(), example, tmp_path)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "shapes from the number of rows": lambda x: x.reshape(x.shape[0] * 2, 4).view(-1, 2, 4),
    "a flat view": lambda x: x.reshape(-1),
    "division by the number of rows": lambda x: x.sum() / x.shape[0],
    "slices": lambda x: x[:, 1:7:2] + x[:, -3:],
    "one column": lambda x: x[:, -1],
    "new dimensions": lambda x: x[:, None, ::2].expand(-1, 3, -1) * 2,
    "all rows but the last": lambda x: x[: x.shape[0] - 1] * 2,
    "the last row": lambda x: x[-1],
    "zeros for each row": lambda x: nt.cat([x, nt.zeros(x.shape[0], 2)], 1),
    "the number of each row": lambda x: x[nt.arange(x.shape[0]), x.argmax(1)],
    "an index tensor": lambda x: x[:, nt.tensor([3, 1])],
    "sums by index": lambda x: nt.zeros(3, 8).index_add(0, nt.arange(x.shape[0]) % 3, x),
    "values at indices": lambda x: x.index_put((nt.arange(x.shape[0]), x.argmax(1)), x.sum(1)),
    "gathering": lambda x: x.gather(1, (x > 0).long()),
    "a write in place": lambda x: (x * 2).add_(1).relu_(),
    "padding by a value": lambda x: F.pad(x, (1, 2), value=3.0),
    "conditions": lambda x: nt.where((x > 0) & (x < 1), x, x * 2).masked_fill(x < -1, 0.5),
    "bounds": lambda x: x.clamp(-1, 1) + x.clamp(min=0) + nt.maximum(x, -x),
    "powers": lambda x: x**2 + 2**x,
    "divisions": lambda x: x // 0.5 + x % 0.3 + x.trunc() + x.div(0.3, rounding_mode="floor"),
    "integers": lambda x: x.long() + 3,
    "bits": lambda x: (x.long() & 6) | (x.long() ^ 3),
    "statistics": lambda x: x.std(1) + x.var(1, correction=0) + x.logsumexp(1) + x.prod(1),
    "extremes": lambda x: [
        x.max(1).values,
        x.amin(1, True),
        x.argmax(1),
        x.topk(3).values,
        x.median(1).values,
        x.kthvalue(2).values,
    ],
    "sorting": lambda x: x.sort(1, descending=True).values,
    "sums so far": lambda x: x.cumsum(1),
    "pieces": lambda x: nt.cat(x.chunk(2, 1)[::-1], 1) + x.split(3, 1)[2].sum(),
    "flips and rolls": lambda x: x.flip(1) + x.roll(1, 1) + x.roll(-3, 1),
    "products": lambda x: nt.einsum("bi,bj->bij", x, x).tril() @ x.unsqueeze(2),
    "attention": lambda x: F.softmax(x @ x.T / 8**0.5, -1) @ x,
    "normal vectors": lambda x: F.normalize(x),
    "no numbers": lambda x: (x / 0).nan_to_num() * 0 + x.isnan().float(),
    "angles": lambda x: nt.atan2(x, x + 1) + nt.hypot(x, x + 1) + nt.logaddexp(x, x + 1),
    "logarithms": lambda x: x.abs().log1p().rsqrt() + x.sigmoid().logit() + x.erfc() + x.expm1(),
    "truths": lambda x: (x > 0).any(1) | (x > -9).all(1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    agrees(Function(FUNCTIONS[name]), FLAT, tmp_path)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, "counts", "added"])
def test_attention_gives_the_same_in_onnxruntime(
    causal: bool, masked: str | None, tmp_path: Path
) -> None:
    mask = None
    if masked and not causal:
        mask = nt.ones(5, 5).tril(1).bool() if masked == "counts" else rows(5, 5)
    model = Function(
        lambda x: F.scaled_dot_product_attention(
            x[:, None], x[:, None] * 2, x[:, None] + 1, attn_mask=mask, is_causal=causal
        )
    )
    agrees(model, STEPS, tmp_path)


def test_names_of_inputs_and_outputs(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, left: Any, right: Any) -> Any:
            return {"sum": left + right, "product": left * right}

    export(Pair(), (FLAT, FLAT), tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [x.name for x in graph.input] == ["left", "right"]
    assert [x.name for x in graph.output] == ["output_0", "output_1"]
    export(Pair(), (FLAT, FLAT), tmp_path / "b.onnx", input_names="ab", output_names=["s", "p"])
    graph = onnx.load(tmp_path / "b.onnx").graph
    assert [x.name for x in (*graph.input, *graph.output)] == ["a", "b", "s", "p"]


def test_parameters_keep_their_names_and_shapes_stay_open(tmp_path: Path) -> None:
    export(nn.Linear(8, 2), FLAT, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert {x.name for x in graph.initializer} == {"weight", "bias"}
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    export(nn.Linear(8, 2), FLAT, tmp_path / "m.onnx", batch_axis=None)
    assert (
        onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    )


def test_a_model_in_training_is_exported_in_evaluation_and_left_in_training(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.9)).train()
    model[0].eval()
    agrees(nn.Sequential(*model), FLAT, tmp_path)
    model.train()
    model[0].eval()
    export(model, FLAT, tmp_path / "m.onnx")
    assert [m.training for m in model] == [False, True, True]


REFUSED: list[tuple[str, Callable[[Any], Any], str]] = [
    ("an op without counterpart", lambda x: nt.linalg.inv(x.T @ x), "has no counterpart in ONNX"),
    ("a value that is read", lambda x: x * x.sum().item(), "reads"),
    ("random numbers", lambda x: F.dropout(x), "draws random numbers"),
    ("a shape that depends on values", lambda x: x[x > 0], "depends on values"),
    ("a result that is no tensor", lambda x: [x, 3], "expected forward to return tensors, got int"),
    ("other ops for more rows", lambda x: x * 2 if len(x) == 3 else x, "other ops for one row"),
]


@pytest.mark.parametrize(
    ("function", "words"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_exported_is_named(
    function: Callable[[Any], Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=words):
        export(Function(function), FLAT, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_line_that_led_to_an_op_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"export: inv .*line \d+ of .*test_onnx\.py"):
        export(Function(lambda x: nt.linalg.inv(x.T @ x)), FLAT, tmp_path / "m.onnx")


def test_one_row_is_too_few_for_an_open_shape(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="needs two rows or more, got 1"):
        export(nn.Linear(8, 2), FLAT[:1], tmp_path / "m.onnx")
