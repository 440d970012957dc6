"""Convolution, pooling, folding, padding, resizing and their kin: PyTorch's numbers and errors."""

from __future__ import annotations

from typing import Any

import pytest

import nanotorch as nt
from nanotorch import nn

F = nn.functional


def same(ours: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    if isinstance(ours, tuple):
        for a, b in zip(ours, theirs, strict=True):
            same(a, b, tolerance)
        return
    assert tuple(ours.shape) == tuple(theirs.shape)
    if theirs.is_floating_point() and theirs.numel():
        expected = nt.tensor(theirs.detach().numpy())
        assert (expected - ours.detach()).abs().max() <= tolerance
    else:
        assert ours.tolist() == theirs.tolist()


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def compare(name: str, shapes: list[Any], options: dict[str, Any]) -> None:
    """A function's values and gradients beside PyTorch's, in float64."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = [None if s is None else torch.randn(s, dtype=torch.float64) for s in shapes]
    # Values with equals among them, so that it matters which of the largest counts.
    theirs = [x if x is None else (x * 4).round() / 4 for x in theirs]
    ours = [None if x is None else nt.tensor(x.numpy()) for x in theirs]
    for x in (*theirs, *ours):
        if x is not None:
            x.requires_grad_()
    expected = getattr(torch.nn.functional, name)(*theirs, **options)
    result = getattr(F, name)(*ours, **options)
    same(result, expected)
    weight = torch.randn(first(expected).shape, dtype=torch.float64)
    (first(expected) * weight).sum().backward()
    (first(result) * nt.tensor(weight.numpy())).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        if a is not None:
            same(a.grad, b.grad)


GEOMETRY: list[dict[str, Any]] = [
    {},
    {"stride": 2},
    {"stride": (3, 2), "padding": (1, 2)},
    {"padding": 2, "dilation": (2, 1)},
    {"stride": 2, "padding": 1, "dilation": 2},
]


@pytest.mark.torch
@pytest.mark.parametrize("options", GEOMETRY, ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_are_pytorchs(options: dict[str, Any], groups: int, bias: bool) -> None:
    options = {**options, "groups": groups}
    compare("conv2d", [(5, 4, 9, 10), (8, 4 // groups, 3, 2), (8,) if bias else None], options)
    compare(
        "conv_transpose2d", [(3, 4, 4, 5), (4, 2, 3, 2), (2 * groups,) if bias else None], options
    )
    line = {k: v[0] if isinstance(v, tuple) else v for k, v in options.items()}
    compare("conv1d", [(5, 4, 9), (8, 4 // groups, 3), (8,) if bias else None], line)
    compare("conv_transpose1d", [(3, 4, 5), (4, 2, 3), (2 * groups,) if bias else None], line)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "shapes", "options"),
    [
        ("conv2d", [(4, 6, 7), (3, 4, 3, 3), None], {"padding": "same", "dilation": 2}),
        ("conv1d", [(2, 3, 8), (3, 3, 3), None], {"padding": "same"}),
        ("conv1d", [(3, 8), (3, 3, 3), (3,)], {"padding": "valid"}),
        ("conv2d", [(2, 3, 5, 4), (6, 3, 1, 1), (6,)], {}),
        ("conv2d", [(0, 3, 5, 4), (6, 3, 2, 2), (6,)], {}),
        (
            "conv_transpose2d",
            [(2, 3, 4, 4), (3, 2, 3, 3), None],
            {"stride": 2, "output_padding": 1},
        ),
        (
            "conv_transpose1d",
            [(2, 3, 4), (3, 2, 3), None],
            {"stride": 2, "padding": 2, "dilation": 3, "output_padding": 2},
        ),
    ],
    ids=str,
)
def test_corners_of_convolutions_are_pytorchs(name: str, shapes: Any, options: Any) -> None:
    compare(name, shapes, options)


@pytest.mark.torch
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 1}, {"stride": 3, "padding": 1}], ids=str)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pooling_is_pytorchs(size: int, options: dict[str, Any], ceil_mode: bool) -> None:
    options = {"kernel_size": size, "ceil_mode": ceil_mode, **options}
    for name, shape in (("max_pool1d", (3, 2, 9)), ("max_pool2d", (3, 2, 9, 10))):
        compare(name, [shape], {**options, "return_indices": True})
        compare(name, [shape[1:]], {**options, "dilation": 2})
    for include in (True, False):
        inside = {**options, "count_include_pad": include}
        compare("avg_pool1d", [(3, 2, 9)], inside)
        compare("avg_pool2d", [(3, 2, 9, 10)], inside)
    compare("avg_pool2d", [(2, 9, 10)], {**options, "divisor_override": 3})


@pytest.mark.torch
@pytest.mark.parametrize("size", [64, 65, (8, 8), (9, 16)], ids=str)
def test_pooling_of_large_windows_side_by_side_is_pytorchs(size: Any) -> None:
    dims = 2 if isinstance(size, tuple) else 1
    shape = tuple(2 * n for n in (size if dims == 2 else (size,)))
    for name in ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool"):
        options = {"output_size": 2} if "adaptive" in name else {"kernel_size": size}
        compare(f"{name}{dims}d", [(3, 2, *shape)], options)
        compare(f"{name}{dims}d", [(2, *shape)], options)


@pytest.mark.torch
@pytest.mark.parametrize("size", [1, (3, 5), (4, 7), (None, 2)], ids=str)
def test_adaptive_pooling_is_pytorchs(size: Any) -> None:
    compare("adaptive_avg_pool2d", [(3, 2, 9, 10)], {"output_size": size})
    options = {"output_size": size, "return_indices": True}
    compare("adaptive_max_pool2d", [(2, 9, 10)], options)
    if isinstance(size, int):
        compare("adaptive_avg_pool1d", [(3, 2, 9)], {"output_size": 4})
        compare("adaptive_max_pool1d", [(3, 2, 9)], {"output_size": 4})


@pytest.mark.torch
@pytest.mark.parametrize("options", GEOMETRY, ids=str)
def test_unfold_and_fold_are_pytorchs(options: dict[str, Any]) -> None:
    compare("unfold", [(3, 2, 9, 10)], {"kernel_size": (3, 2), **options})
    torch = pytest.importorskip("torch")
    columns = torch.nn.functional.unfold(torch.zeros(1, 2, 9, 10), (3, 2), **options)
    shape = (3, *columns.shape[1:])
    compare("fold", [shape], {"output_size": (9, 10), "kernel_size": (3, 2), **options})


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "constant"])
def test_padding_is_pytorchs(mode: str) -> None:
    compare("pad", [(2, 3, 4, 5)], {"pad": (1, 2, 3, 0), "mode": mode})
    compare("pad", [(2, 3, 5)], {"pad": (3, 1), "mode": mode})
    compare("pad", [(3, 5)], {"pad": (0, 2), "mode": mode})


@pytest.mark.torch
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 5), {"size": 8}),
        ((2, 3, 5), {"size": 8, "mode": "nearest-exact"}),
        ((2, 3, 5), {"scale_factor": 1.7, "mode": "linear"}),
        ((2, 3, 5), {"scale_factor": 1.7, "mode": "linear", "recompute_scale_factor": True}),
        ((2, 3, 4, 5), {"scale_factor": 2}),
        ((2, 3, 4, 5), {"size": (3, 11)}),
        ((2, 3, 4, 5), {"scale_factor": (2, 0.5), "mode": "bilinear"}),
        ((2, 3, 4, 5), {"size": (7, 3), "mode": "bilinear", "align_corners": True}),
        ((2, 3, 4, 5), {"size": (1, 9), "mode": "bilinear", "align_corners": True}),
        ((2, 3, 4, 5), {"size": (3, 2), "mode": "area"}),
        ((1, 1, 3, 4, 2), {"size": (4, 3, 5), "mode": "trilinear"}),
    ],
    ids=str,
)
def test_resizing_is_pytorchs(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    compare("interpolate", [shape], options)


LAYERS: list[tuple[str, tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = [
    ("Conv1d", (4, 6, 3), {"padding": "same"}, (2, 4, 9)),
    ("Conv2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9, 8)),
    ("Conv2d", (4, 6, (3, 2)), {"bias": False, "dilation": 2}, (4, 9, 8)),
    *(
        ("Conv2d", (4, 6, 3), {"padding": 1, "padding_mode": mode}, (2, 4, 9, 8))
        for mode in ("reflect", "replicate", "circular")
    ),
    ("Conv1d", (4, 6, 4), {"padding": "same", "padding_mode": "circular"}, (2, 4, 9)),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "output_padding": 1}, (2, 4, 9)),
    ("ConvTranspose2d", (4, 6, 3), {"padding": 1, "groups": 2}, (2, 4, 5, 5)),
    ("MaxPool1d", (2,), {}, (2, 4, 9)),
    ("MaxPool2d", (2,), {"padding": 1, "ceil_mode": True}, (2, 4, 9, 8)),
    ("AvgPool1d", (2,), {}, (2, 4, 9)),
    ("AvgPool2d", ((2, 3),), {"stride": 1}, (2, 4, 9, 8)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 4, 8)),
    ("AdaptiveAvgPool2d", ((1, 3),), {}, (2, 4, 9, 8)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 4, 8)),
    ("AdaptiveMaxPool2d", ((None, 3),), {}, (2, 4, 9, 8)),
    ("Unfold", (2,), {"stride": 2}, (2, 4, 8, 8)),
    ("Fold", ((4, 4), 2), {}, (2, 8, 9)),
    ("Upsample", (), {"scale_factor": 2}, (2, 4, 3, 3)),
    ("Upsample", ((5, 4),), {"mode": "bilinear", "align_corners": True}, (2, 4, 3, 3)),
    ("UpsamplingNearest2d", (), {"scale_factor": 2}, (2, 4, 3, 3)),
    ("UpsamplingBilinear2d", (), {"scale_factor": 2}, (2, 4, 3, 3)),
    ("ZeroPad1d", (1,), {}, (2, 4, 3)),
    ("ZeroPad2d", (1,), {}, (2, 4, 3, 3)),
    ("ConstantPad1d", (1, 2.5), {}, (2, 4, 3)),
    ("ConstantPad2d", ((1, 0, 2, 1), 2.5), {}, (2, 4, 3, 3)),
    ("ReflectionPad1d", (2,), {}, (2, 4, 3)),
    ("ReflectionPad2d", ((1, 2, 0, 1),), {}, (2, 4, 3, 3)),
    ("ReplicationPad1d", (4,), {}, (2, 4, 3)),
    ("ReplicationPad2d", (2,), {}, (2, 4, 3, 3)),
    ("CircularPad1d", (2,), {}, (2, 4, 3)),
    ("CircularPad2d", (2,), {}, (2, 4, 3, 3)),
    ("BatchNorm2d", (4,), {}, (3, 4, 3, 2)),
    ("InstanceNorm1d", (4,), {}, (4, 9)),
    ("InstanceNorm1d", (4,), {"affine": True, "track_running_stats": True}, (3, 4, 9)),
    ("InstanceNorm2d", (4,), {"affine": True}, (3, 4, 3, 2)),
    ("Dropout1d", (0.5,), {}, (3, 4, 3)),
    ("Dropout1d", (0.5,), {}, (4, 3)),
    ("Dropout2d", (0.3,), {}, (3, 4, 3, 2)),
]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=str)
def test_a_layer_has_pytorchs_weights_names_and_numbers(
    name: str, arguments: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    nt.manual_seed(5)
    ours = getattr(nn, name)(*arguments, **options)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    same(tuple(ours.state_dict().values()), tuple(theirs.state_dict().values()), 0)
    x = torch.randn(shape)
    a = nt.tensor(x.numpy()).requires_grad_()
    x.requires_grad_()
    for _ in range(2):
        torch.manual_seed(6)
        expected = theirs(x)
        nt.manual_seed(6)
        result = ours(a)
        same(result, expected, 2e-6)
        same(tuple(ours.buffers()), tuple(theirs.buffers()), 2e-6)
        theirs.eval()
        ours.eval()
    (expected**2).sum().backward()
    (result**2).sum().backward()
    same(a.grad, x.grad, 2e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        same(p.grad, q.grad, 2e-4)


DERIVATIVES: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, groups=2),
        [(2, 4, 4, 3), (4, 2, 2, 3), (4,)],
    ),
    "conv2d, whole rows": (lambda x, w: F.conv2d(x, w), [(2, 2, 4, 3), (2, 2, 2, 2)]),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
        [(2, 2, 3, 2), (2, 2, 3, 2), (2,)],
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), [(2, 2, 4, 5)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), [(2, 2, 4, 5)]),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (3, 2)), [(1, 2, 4, 5)]),
    "unfold": (lambda x: F.unfold(x, 2), [(1, 2, 3, 4)]),
    "fold": (lambda x: F.fold(x, (3, 4), 2), [(1, 8, 6)]),
    "interpolate": (lambda x: F.interpolate(x, size=(5, 2), mode="bilinear"), [(1, 2, 3, 4)]),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), [(1, 2, 3, 4)]),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_any_order_and_in_both_modes_are_right(name: str) -> None:
    function, shapes = DERIVATIVES[name]
    nt.manual_seed(1)
    inputs = [nt.randn(shape, dtype=nt.float64, requires_grad=True) for shape in shapes]
    assert nt.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert nt.autograd.gradgradcheck(function, inputs)


def test_the_columns_of_a_convolution_need_no_more_memory_than_a_part_of_the_batch() -> None:
    import tracemalloc

    x, weight = nt.randn(64, 8, 32, 32), nt.randn(8, 8, 3, 3)
    F.conv2d(x, weight, padding=1)
    tracemalloc.start()
    y = F.conv2d(x, weight, padding=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    im2col = 9 * x.numel() * 4
    assert peak < y.numel() * 4 + im2col / 3


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "channels": (lambda: nn.Conv2d(3, 4, 2)(nt.ones(1, 2, 5, 5)), RuntimeError, "3 channels, but"),
    "dimensions": (lambda: nn.Conv2d(3, 4, 2)(nt.ones(5, 5)), RuntimeError, "3D.*4D.*conv2d"),
    "too small": (lambda: nn.Conv1d(3, 4, 6)(nt.ones(1, 3, 5)), RuntimeError, "can't be greater"),
    "dtype": (lambda: nn.Conv1d(3, 4, 2)(nt.ones(1, 3, 5).double()), RuntimeError, "be the same"),
    "groups": (lambda: nn.Conv2d(3, 4, 2, groups=2), ValueError, "divisible by groups"),
    "mode": (lambda: nn.Conv2d(3, 4, 2, padding_mode="x"), ValueError, "padding_mode must be"),
    "same with strides": (
        lambda: nn.Conv2d(3, 4, 2, stride=2, padding="same"),
        ValueError,
        "not supported for strided",
    ),
    "output padding": (
        lambda: nn.ConvTranspose1d(3, 4, 2, output_padding=1)(nt.ones(1, 3, 5)),
        RuntimeError,
        "output padding must be smaller",
    ),
    "output size": (
        lambda: nn.ConvTranspose1d(3, 4, 2)(nt.ones(1, 3, 5), output_size=(9,)),
        ValueError,
        "valid sizes range",
    ),
    "padding": (
        lambda: F.max_pool1d(nt.ones(1, 1, 5), 2, padding=2),
        RuntimeError,
        "half",
    ),
    "small pool": (lambda: F.avg_pool1d(nt.ones(1, 1, 2), 3), RuntimeError, "too small"),
    "reflection": (lambda: F.pad(nt.ones(1, 1, 3), (3, 0), "reflect"), RuntimeError, "2 elements"),
    "mode of resizing": (
        lambda: F.interpolate(nt.ones(1, 1, 3), 4, mode="bicubic"),
        NotImplementedError,
        "expected mode",
    ),
    "two sizes": (lambda: F.interpolate(nt.ones(1, 1, 3), 4, 2.0), ValueError, "only one of"),
    "rank of a norm": (lambda: nn.BatchNorm2d(3)(nt.ones(2, 3, 4)), ValueError, "expected 4D"),
    "one element": (lambda: nn.InstanceNorm1d(3)(nt.ones(2, 3, 1)), ValueError, "more than 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_by_name(name: str) -> None:
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=message):
        call()


def lenet() -> Any:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4)),
        *(nn.Conv2d(4, 4, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)),
    )


@pytest.mark.parametrize("pure", [False, True])
def test_a_compiled_step_has_the_bits_of_an_eager_one(pure: bool) -> None:
    def trained(compiled: bool) -> list[Any]:
        nt.manual_seed(0)
        model = lenet()
        optimizer = nt.optim.SGD(model.parameters(), lr=0.1)
        x, target = nt.randn(6, 1, 8, 8), nt.tensor([0, 1, 2, 0, 1, 2])

        def step(x: Any, target: Any) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), target)
            loss.backward()
            optimizer.step()
            return loss

        run = nt.compile(step, pure=pure) if compiled else step
        return [
            [run(x, target).item() for _ in range(4)],
            *(p.tolist() for p in model.parameters()),
        ]

    assert trained(True) == trained(False)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "arguments", "shape"),
    [
        ("Conv2d", (3, 4, 3), (2, 3, 8, 8)),
        ("ConvTranspose2d", (3, 4, 3), (2, 3, 4, 4)),
        ("MaxPool2d", (2,), (2, 3, 8, 8)),
        ("AvgPool2d", (3, 2, 1), (2, 3, 8, 8)),
        ("Unfold", (2,), (2, 3, 8, 8)),
        ("LSTM", (3, 4), (5, 2, 3)),
        ("GRU", (3, 4), (5, 2, 3)),
    ],
)
def test_16_bits_give_pytorchs_numbers(
    kind: str, name: str, arguments: Any, shape: tuple[int, ...]
) -> None:
    results = []
    for module in (pytest.importorskip("torch"), nt):
        module.manual_seed(0)
        layer = getattr(module.nn, name)(*arguments).to(getattr(module, kind))
        x = module.randn(*shape).to(getattr(module, kind)).requires_grad_()
        y = first(layer(x))
        y.sum().backward()
        results.append((y.float(), x.grad.float()))
    theirs, ours = results
    same(ours, theirs, 2e-3 if kind == "float16" else 1.6e-2)


def test_autocast_convolves_in_16_bits() -> None:
    layer, x = nn.Conv2d(3, 4, 3), nt.ones(2, 3, 5, 5)
    with nt.autocast("cpu", dtype=nt.bfloat16):
        assert nn.MaxPool2d(2)(layer(x)).dtype is nt.bfloat16
        assert nn.ConvTranspose2d(3, 4, 3)(x).dtype is nt.bfloat16
        layer(x).sum().backward()
    assert layer.weight.grad.dtype is nt.float32
