"""Every op of the table on CUDA arrays: the CPU's results and derivatives, and no hidden crossing.

Runs on the look-alike of CuPy, which counts what crosses between host and device; and, where there
is a device, on CuPy itself (`pytest -m gpu`).
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy
import pytest
import strict_cupy
from op_table import CASES, Case, title
from strict_cupy.kernels import launched

import nanotorch
from nanotorch import backend
from nanotorch.autograd import forward_ad
from nanotorch.backend.cuda import kernels
from nanotorch.cuda import kernel_table
from nanotorch.primitive import Primitive

SOLVING = (
    *("linalg.cholesky", "linalg.eig", "linalg.solve", "linalg.matrix_exp", "linalg.cond"),
    *("linalg.pinv", "linalg.matrix_rank", "linalg.inv", "linalg.qr", "linalg.svd"),
    *("linalg.lstsq", "linalg.tensor", "cholesky_"),
)
ON_CUDA = [case for case in CASES if not case.host]

# What the host has to know of the device's values, and why. All other ops run without waiting.
WAITING = {
    "masked_select": "how many elements there are depends on the mask",
    "getitem mask": "how many elements there are depends on the mask",
    "getitem rows": "how many elements there are depends on the mask",
    "getitem number and mask": "how many elements there are depends on the mask",
    "nonzero": "how many places there are depends on the values",
    "nonzero as_tuple": "how many places there are depends on the values",
    "unique": "how many values there are depends on the values",
    "unique float": "how many values there are depends on the values",
    "bincount": "the largest number says how many bins there are",
    "bincount weights": "the largest number says how many bins there are",
    "getitem list": "a list of the host is sent to the device",
    **dict.fromkeys(
        ["inverse", "inverse batched", "det", "det batched", "logdet", "slogdet", "solve",
         "solve vector", ],
        "cuSOLVER says whether the matrix was singular",
    ),
    "argwhere": "how many places there are depends on the values",
    "unique_consecutive": "how many values there are depends on the values",
    "combinations": "the host lists the combinations",
    "cov weights": "the weights say whether there are enough observations",
    **dict.fromkeys(
        [title(case) for case in CASES if title(case).startswith(SOLVING)],
        "cuSOLVER says whether it succeeded",
    ),
    **dict.fromkeys(
        ["matrix_norm nuc", "matrix_norm 2", "matrix_norm -2"],
        "cuSOLVER says whether the singular values converged",
    ),
}  # fmt: skip


class Uncounted:
    """The library, but for what its `tensor` sends to the device: constants of the test itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(nanotorch, name)

    @staticmethod
    def tensor(*arguments: Any, **options: Any) -> Any:
        before = strict_cupy.counts.h2d
        made = nanotorch.tensor(*arguments, **options)
        strict_cupy.counts.h2d = before
        return made


def flat(result: Any) -> list[Any]:
    """The tensors of a result, one or several."""
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in flat(part)]
    return [result]


def made(case: Case, device: str, dtype: str) -> list[Any]:
    """The case's inputs on a device, the real ones as leaves that require grad."""
    return [
        nanotorch.tensor(array.astype(dtype), device=device, requires_grad=True)
        if spec.differentiable
        else nanotorch.tensor(array, device=device)
        for array, spec in zip(case.arrays(), case.inputs, strict=True)
    ]


def total(values: list[Any]) -> Any:
    """The sum of the squares of all that is recorded; None where nothing is."""
    sums = [(y * y).sum() for y in values if y.requires_grad and y.dtype.is_floating_point]
    return sum(sums[1:], sums[0]) if sums else None


def slopes(values: list[Any], inputs: list[Any], create_graph: bool) -> list[Any]:
    """The gradients of `total` that there are."""
    y = total(values)
    wanted = [x for x in inputs if x.requires_grad]
    if y is None:
        return []
    found = nanotorch.autograd.grad(y, wanted, create_graph=create_graph, allow_unused=True)
    return [g for g in found if g is not None]


def tangents(case: Case, inputs: list[Any]) -> list[Any]:
    """How the outputs change where every real input grows by itself."""
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(x.detach(), x.detach()) if x.dtype.is_floating_point else x
            for x in inputs
        ]
        outputs = flat(case.function(Uncounted(), *duals))
        found = [forward_ad.unpack_dual(y).tangent for y in outputs if y.dtype.is_floating_point]
    return [t for t in found if t is not None]


def readings(case: Case, inputs: list[Any]) -> list[Any]:
    """The outputs, their gradients, the gradients of these, and the tangents."""
    outputs = flat(case.function(Uncounted(), *inputs))
    first = slopes(outputs, inputs, create_graph=True)
    second = slopes(first, inputs, create_graph=False) if case.smooth else []
    return [*outputs, *first, *second, *tangents(case, inputs)]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", ON_CUDA, ids=lambda case: case.name)
def test_results_and_derivatives_are_those_of_the_cpu(case: Case, dtype: str, cuda: str) -> None:
    found: list[list[Any]] = []
    for device in ("cpu", "cuda"):
        with nanotorch.device(device):
            inputs = made(case, device, dtype)
            strict_cupy.counts.reset()
            values = readings(case, inputs)
            counts = strict_cupy.counts
            crossings = (counts.h2d, counts.d2h, counts.synchronizations)
        assert all(y.device.type == device for y in values)
        found.append([y.detach().cpu().numpy() for y in values])
    if cuda == "look-alike":
        assert (crossings == (0, 0, 0)) == (title(case) not in WAITING)
    rtol, atol = (1e-4, 1e-5) if dtype == "float32" else (1e-11, 1e-12)
    # A device contracts a * b + c and flushes subnormals: what cancels is off at the scale of all.
    share = 5e-4 if cuda == "cupy" and dtype == "float32" else 0.0
    for expected, got in zip(*found, strict=True):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        scale = float(numpy.abs(expected).max()) if share and expected.size else 0.0
        scale = scale if numpy.isfinite(scale) else 0.0
        numpy.testing.assert_allclose(got, expected, rtol=rtol, atol=atol + share * scale)


def test_every_row_that_may_wait_exists() -> None:
    assert set(WAITING) <= {title(case) for case in CASES}


@pytest.mark.skipif(not hasattr(strict_cupy, "RawModule"), reason="g++ is missing")
def test_the_table_passes_through_the_fused_kernels(cuda: str) -> None:
    if cuda != "look-alike":
        pytest.skip("counts launches of the look-alike")
    files = ("losses", "classes", "softmax", "normalization")
    instances = [name for file in files for name in kernels.instances(file)]
    declared = {name for name in instances if name.endswith("<float>")}
    launched.clear()
    with nanotorch.device("cuda"):
        for case in ON_CUDA:
            if re.search("loss|entropy|softmax|norm|linear", case.name):
                readings(case, made(case, "cuda", "float32"))
    assert declared & launched.keys() == declared - {"class_loss<float>"}  # of captured steps


def all_below(kind: type[Primitive]) -> set[type[Primitive]]:
    """A primitive's subclasses, and theirs."""
    return {kind, *(other for child in kind.__subclasses__() for other in all_below(child))}


def filling(primitive: type[Primitive], filled: set[str]) -> Any:
    """The primitive's kernel, which also has to fill memory that it is given."""
    kernel = primitive.kernel

    def run(xp: Any, *inputs: Any, **attributes: Any) -> Any:
        y = kernel(xp, *inputs, **attributes)
        if type(y) in backend.MODULES and attributes.pop("out", None) is None:
            module = backend.array_module(y)
            out = module.empty_like(y)
            assert kernel(xp, *inputs, **attributes, out=out) is out, primitive.__name__
            expected, found = (backend.to_device(a, backend.CPU) for a in (y, out))
            numpy.testing.assert_array_equal(found, expected, primitive.__name__)
            filled.add(primitive.__name__)
        return y

    return staticmethod(run)


def test_kernels_fill_the_memory_of_the_device_that_they_are_given(
    cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: set[str] = set()
    for primitive in all_below(Primitive):
        filled_elsewhere = primitive in kernel_table.COPIED  # what CuPy cannot
        if "out" in inspect.signature(primitive.kernel).parameters and not filled_elsewhere:
            monkeypatch.setattr(primitive, "kernel", filling(primitive, filled))
    with nanotorch.device("cuda"):
        for case in ON_CUDA:
            inputs = made(case, "cuda", "float32")
            slopes(flat(case.function(Uncounted(), *inputs)), inputs, create_graph=True)
    assert len(filled) > 100
