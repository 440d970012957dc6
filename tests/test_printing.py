"""Tensors print letter by letter as in PyTorch: a table of texts, then PyTorch itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import nanotorch.nn
from nanotorch import backend
from nanotorch.printing import (
    format_tensor,
    get_printoptions,
    printoptions,
    set_printoptions,
)

nan, inf = math.nan, math.inf


@pytest.fixture(autouse=True)
def default_options() -> Iterator[None]:
    set_printoptions(profile="default")
    yield
    set_printoptions(profile="default")


def lines(*parts: str) -> str:
    return "\n".join(parts)


def printed(values: Any, dtype: str = "float32", **keywords: Any) -> str:
    return format_tensor(np.array(values, dtype=dtype), **keywords)


# ---- numbers ----

NUMBERS = [
    ("whole floats end in a point", "float32", [1, 2], "[1., 2.]"),
    ("others get four decimals", "float32", [1.5, -2.25], "[ 1.5000, -2.2500]"),
    ("a negative zero keeps its sign", "float32", [-0.0, 0.0], "[-0., 0.]"),
    ("and sticks out of the column", "float32", [-0.0, 1.5], "[-0.0000, 1.5000]"),
    ("so do infinities among whole floats", "float32", [1, nan, -inf], "[1., nan, -inf]"),
    ("nothing but NaN and infinity", "float32", [nan, inf], "[nan, inf]"),
    ("NaN is aligned with decimals", "float32", [nan, 1.5], "[   nan, 1.5000]"),
    ("a ratio of 1000 is still plain", "float32", [1000, 1], "[1000.,    1.]"),
    ("above it is scientific", "float32", [1001, 1], "[1.0010e+03, 1.0000e+00]"),
    ("1e8 is still plain", "float32", [1e8, 1e8], "[100000000., 100000000.]"),
    ("above it is scientific", "float32", [1.1e8], "[1.1000e+08]"),
    ("small is scientific", "float32", [9.9e-5], "[9.9000e-05]"),
    ("1e-4 is still plain", "float64", [1e-4, 0.05], "[0.0001, 0.0500], dtype=torch.float64"),
    ("a zero follows the style", "float32", [1e-5, 0], "[1.0000e-05, 0.0000e+00]"),
    ("subnormal", "float32", [1e-45, 1], "[1.4013e-45, 1.0000e+00]"),
    ("half", "float16", [65504, 6e-8], "[6.5504e+04, 5.9605e-08], dtype=torch.float16"),
    ("smallest double", "float64", [5e-324], "[4.9407e-324], dtype=torch.float64"),
    ("integers are aligned", "int64", [1, -20, 300], "[  1, -20, 300]"),
    ("the smallest integer", "int64", [-(2**63)], "[-9223372036854775808]"),
    ("the largest", "uint64", [2**64 - 1], "[18446744073709551615], dtype=torch.uint64"),
    ("bytes", "uint8", [0, 255], "[  0, 255], dtype=torch.uint8"),
    ("truth values are aligned", "bool", [True, False], "[ True, False]"),
    ("complex", "complex64", [1 + 2j, -3.25 + 12j], "[ 1.0000+2.j, -3.2500+12.j]"),
    (
        "both signs of an imaginary zero",
        "complex128",
        [complex(1, 0.0), complex(1, -0.0)],
        "[1.+0.j, 1.-0.j], dtype=torch.complex128",
    ),
    ("complex infinity", "complex64", complex(nan, -inf), "nan-infj"),
    ("0-dim float", "float32", 3.14159, "3.1416"),
    ("0-dim integer", "int64", 7, "7"),
    ("0-dim truth value", "bool", True, "True"),
]


@pytest.mark.parametrize(
    ("dtype", "values", "text"), [row[1:] for row in NUMBERS], ids=[row[0] for row in NUMBERS]
)
def test_numbers_are_written_as_pytorch_writes_them(dtype: str, values: Any, text: str) -> None:
    assert printed(values, dtype) == f"tensor({text})"


# ---- layout ----


def test_matrices_are_set_apart_by_blank_lines() -> None:
    assert printed(np.zeros((2, 2, 2))) == lines(
        "tensor([[[0., 0.],",
        "         [0., 0.]],",
        "",
        "        [[0., 0.],",
        "         [0., 0.]]])",
    )


def test_stacks_of_matrices_are_set_apart_by_two_blank_lines() -> None:
    assert printed(np.zeros((2, 1, 1, 2))) == lines(
        "tensor([[[[0., 0.]]],", "", "", "        [[[0., 0.]]]])"
    )


def test_a_long_vector_is_broken_into_lines() -> None:
    assert printed(np.arange(20) / 8) == lines(
        "tensor([0.0000, 0.1250, 0.2500, 0.3750, 0.5000, 0.6250, 0.7500, 0.8750, 1.0000,",
        "        1.1250, 1.2500, 1.3750, 1.5000, 1.6250, 1.7500, 1.8750, 2.0000, 2.1250,",
        "        2.2500, 2.3750])",
    )


def test_complex_numbers_break_lines_by_the_width_of_both_parts() -> None:
    assert printed(np.full(7, 1.5 + 1j), "complex64") == lines(
        "tensor([1.5000+1.j, 1.5000+1.j, 1.5000+1.j, 1.5000+1.j, 1.5000+1.j, 1.5000+1.j,",
        "        1.5000+1.j])",
    )


def test_a_thousand_elements_are_shown_and_more_are_summarised() -> None:
    assert "..." not in printed(np.arange(1000), "int64")
    assert printed(np.arange(1001), "int64") == (
        "tensor([   0,    1,    2,  ...,  998,  999, 1000])"
    )


def test_every_long_axis_is_summarised() -> None:
    set_printoptions(edgeitems=1)
    assert printed(np.arange(2000).reshape(20, 10, 10), "int64") == lines(
        "tensor([[[   0,  ...,    9],",
        "         ...,",
        "         [  90,  ...,   99]],",
        "",
        "        ...,",
        "",
        "        [[1900,  ..., 1909],",
        "         ...,",
        "         [1990,  ..., 1999]]])",
    )


def test_short_axes_of_a_large_tensor_are_shown_whole() -> None:
    assert printed(np.zeros((2, 1001))) == lines(
        "tensor([[0., 0., 0.,  ..., 0., 0., 0.],",
        "        [0., 0., 0.,  ..., 0., 0., 0.]])",
    )


def test_hidden_numbers_do_not_decide_the_style() -> None:
    values = np.zeros(2000)
    values[1000] = 1e-30
    assert printed(values) == "tensor([0., 0., 0.,  ..., 0., 0., 0.])"


# ---- suffixes ----

SUFFIXES = [
    (np.zeros(2), {}, "[0., 0.], dtype=torch.float64"),
    (np.zeros(2), {"default_dtype": "float64"}, "[0., 0.]"),
    (np.zeros(2, "complex128"), {"default_dtype": "float64"}, "[0.+0.j, 0.+0.j]"),
    (np.zeros(2, "float32"), {"default_dtype": "float64"}, "[0., 0.], dtype=torch.float32"),
    (np.zeros(0, "float32"), {}, "[]"),
    (np.zeros((0, 3), "float32"), {}, "[], size=(0, 3)"),
    (np.zeros(0, "int64"), {}, "[], dtype=torch.int64"),
    (np.zeros((2, 0), "bool"), {}, "[], size=(2, 0), dtype=torch.bool"),
    (np.zeros(1, "float32"), {"requires_grad": True}, "[0.], requires_grad=True"),
    (
        np.zeros(1, "float32"),
        {"requires_grad": True, "grad_fn_name": "CopySlices"},
        "[0.], grad_fn=<CopySlices>",
    ),
    (
        np.zeros((0, 1)),
        {"device_name": "cuda:0", "requires_grad": True},
        "[], device='cuda:0', size=(0, 1), dtype=torch.float64,\n       requires_grad=True",
    ),
    (np.ones(1, "float32"), {"notes": {"tangent": "tensor([2.])"}}, "[1.], tangent=tensor([2.])"),
]


@pytest.mark.parametrize(("array", "keywords", "text"), SUFFIXES)
def test_suffixes_tell_what_the_numbers_do_not(
    array: np.ndarray, keywords: dict[str, Any], text: str
) -> None:
    assert format_tensor(array, **keywords) == f"tensor({text})"


def test_a_suffix_moves_to_a_new_line_when_the_last_one_is_full() -> None:
    set_printoptions(linewidth=33)
    assert printed([0.0], requires_grad=True) == "tensor([0.], requires_grad=True)"
    set_printoptions(linewidth=32)
    assert printed([0.0], requires_grad=True) == "tensor([0.],\n       requires_grad=True)"


# ---- options ----


def test_profiles_set_all_options_and_single_ones_override_them() -> None:
    set_printoptions(profile="short", linewidth=120)
    assert get_printoptions() == {
        "precision": 2, "threshold": 1000, "edgeitems": 2, "linewidth": 120, "sci_mode": None,
    }  # fmt: skip
    set_printoptions(precision=6)
    assert get_printoptions()["linewidth"] == 120
    set_printoptions(profile="full")
    assert "..." not in printed(np.zeros((40, 40)))


def test_scientific_notation_is_forced_until_the_next_call() -> None:
    set_printoptions(sci_mode=True)
    assert printed([1.0, nan, 0.0]) == "tensor([1.0000e+00,        nan, 0.0000e+00])"
    assert printed([0.0, 0.0]) == "tensor([0., 0.])"
    set_printoptions(sci_mode=False)
    assert printed([1e-10, 2.0]) == "tensor([0.0000, 2.0000])"
    set_printoptions(precision=4)
    assert printed([1e-10, 2.0]) == "tensor([1.0000e-10, 2.0000e+00])"


def test_no_edge_items_leave_only_the_shape() -> None:
    set_printoptions(edgeitems=0)
    assert printed(np.zeros((50, 50))) == "tensor([...], size=(50, 50))"
    assert printed(1.0) == "tensor(1., size=())"


def test_options_are_restored_after_a_block_that_fails() -> None:
    with pytest.raises(ZeroDivisionError), printoptions(precision=1, threshold=0, edgeitems=1):
        assert printed([1.5, 2.5, 3.5]) == "tensor([1.5,  ..., 3.5])"
        raise ZeroDivisionError
    assert printed([1.5]) == "tensor([1.5000])"


def test_a_line_may_be_endless() -> None:
    set_printoptions(linewidth=inf)
    assert "\n" not in printed(np.arange(900), "int32", requires_grad=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "long"}, "profile must be one of 'default', 'short', 'full', not 'long'"),
        ({"edgeitems": -1}, "edgeitems must not be negative, got -1"),
        ({"threshold": nan}, "threshold must not be negative, got nan"),
    ],
)
def test_impossible_options_are_refused_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    former = get_printoptions()
    with pytest.raises(ValueError, match=message):
        set_printoptions(**options)
    assert get_printoptions() == former


# ---- devices ----


@pytest.mark.ring("cuda")
def test_only_the_corners_of_a_device_array_reach_the_host_and_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class DeviceArray(np.ndarray):
        def tolist(self) -> Any:
            raise AssertionError("an element was read on the device")

    crossings = []

    def asnumpy(array: DeviceArray) -> np.ndarray:
        crossings.append(array.shape)
        return np.array(array)

    def concatenate(arrays: list[DeviceArray], axis: int) -> DeviceArray:
        return np.concatenate(arrays, axis).view(DeviceArray)

    module = SimpleNamespace(ndarray=DeviceArray, concatenate=concatenate, asnumpy=asnumpy)
    monkeypatch.setitem(backend.MODULES, DeviceArray, module)
    checks = SimpleNamespace(to_host=lambda xp, array: xp.asnumpy(array))
    monkeypatch.setattr(backend.cuda_parts, "checks", checks, raising=False)
    array = np.arange(3000.0, dtype="float32").reshape(3, 1000)
    text = format_tensor(array.view(DeviceArray), device_name="cuda:0")
    assert crossings == [(3, 6)]
    assert text == format_tensor(array, device_name="cuda:0")


@pytest.mark.gpu
def test_a_cupy_array_prints_as_its_host_copy() -> None:
    cupy = backend.cuda_module()
    array = np.arange(6000.0, dtype="float32").reshape(3, 2, 1000) / 8
    text = format_tensor(cupy.asarray(array), device_name="cuda:0")
    assert text == format_tensor(array, device_name="cuda:0")
    assert text.endswith("]]], device='cuda:0')")


# ---- tensors ----

PROGRAMS = [
    (lambda nt: nt.tensor([1.5, 2]), "tensor([1.5000, 2.0000])"),
    (lambda nt: nt.arange(3), "tensor([0, 1, 2])"),
    (lambda nt: nt.zeros(2, dtype=nt.float64), "tensor([0., 0.], dtype=torch.float64)"),
    (lambda nt: nt.zeros(0, 3), "tensor([], size=(0, 3))"),
    (lambda nt: nt.tensor(True), "tensor(True)"),
    (lambda nt: nt.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
    (lambda nt: nt.ones(1, requires_grad=True) + 1, "tensor([2.], grad_fn=<AddBackward0>)"),
    (lambda nt: nt.ones(1, requires_grad=True).detach(), "tensor([1.])"),
    (lambda nt: [nt.tensor(1.0), nt.tensor(2)], "[tensor(1.), tensor(2)]"),
    (lambda nt: (nt.eye(2),), "(tensor([[1., 0.],\n        [0., 1.]]),)"),
    (lambda nt: {"w": nt.tensor([1])}, "{'w': tensor([1])}"),
    (
        lambda nt: nt.nn.Parameter(nt.ones(1)),
        "Parameter containing:\ntensor([1.], requires_grad=True)",
    ),
    (
        lambda nt: nt.nn.Parameter(nt.ones(1), requires_grad=False),
        "Parameter containing:\ntensor([1.])",
    ),
    (lambda nt: written_in_place(nt), "tensor([5., 0.], grad_fn=<CopySlices>)"),
]


def written_in_place(nt: Any) -> Any:
    x = nt.zeros(2)
    x[0] = 5 * nt.ones((), requires_grad=True)
    return x


FORMATS = [
    (lambda nt: f"{nt.tensor(2.5)}", "2.5"),
    (lambda nt: f"{nt.tensor(2.5, requires_grad=True):.3f}", "2.500"),
    (lambda nt: f"{nt.tensor(7):5d}|", "    7|"),
    (lambda nt: f"{nt.tensor(True)}", "True"),
    (lambda nt: f"{nt.tensor(1 + 2j):.1f}", "1.0+2.0j"),
    (lambda nt: f"{nt.tensor(2.5)!s} {nt.tensor(2.5)!r}", "tensor(2.5000) tensor(2.5000)"),
    (lambda nt: f"{nt.ones(2)}", "tensor([1., 1.])"),
    (
        lambda nt: f"{nt.nn.Parameter(nt.ones(()))}",
        "Parameter containing:\ntensor(1., requires_grad=True)",
    ),
    (lambda nt: f"{nt.tensor(0.1)}", "0.10000000149011612"),
]


def torch_or_ours(name: str) -> Any:
    return nanotorch if name == "nanotorch" else pytest.importorskip("torch")


BOTH = ["nanotorch", pytest.param("torch", marks=pytest.mark.torch)]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("program", "text"), PROGRAMS)
def test_tensors_print_their_state(program: Callable[[Any], Any], text: str, name: str) -> None:
    assert repr(program(torch_or_ours(name))) == str(program(torch_or_ours(name))) == text


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("program", "text"), FORMATS)
def test_a_tensor_without_dimensions_formats_as_its_number(
    program: Callable[[Any], str], text: str, name: str
) -> None:
    assert program(torch_or_ours(name)) == text


def test_a_format_for_one_number_is_refused_for_many() -> None:
    with pytest.raises(
        TypeError, match=r"'.3f' formats one number, but the tensor has shape \(2,\)"
    ):
        format(nanotorch.ones(2), ".3f")


@pytest.mark.parametrize("name", BOTH)
def test_the_default_dtype_is_not_named(name: str) -> None:
    nt = torch_or_ours(name)
    nt.set_default_dtype(nt.float64)
    try:
        assert repr(nt.zeros(1)) == "tensor([0.])"
        assert repr(nt.zeros(1, dtype=nt.float32)) == "tensor([0.], dtype=torch.float32)"
    finally:
        nt.set_default_dtype(nt.float32)


@pytest.mark.ring("forward mode")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("name", BOTH)
def test_a_dual_tensor_shows_its_tangent(name: str) -> None:
    nt = torch_or_ours(name)
    with nt.autograd.forward_ad.dual_level():
        dual = nt.autograd.forward_ad.make_dual(nt.ones(1), nt.full((1,), 2.5))
        assert repr(dual) == "tensor([1.], tangent=tensor([2.5000]))"


# ---- against PyTorch ----

DTYPES = [
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
]  # fmt: skip


def random_reals(random: np.random.Generator, count: int) -> np.ndarray:
    """Numbers around the borders between the styles: whole, tiny, huge, mixed with special ones."""
    x = random.standard_normal(count)
    special = np.array([0.0, -0.0, inf, -inf, nan, 1e-4, 9.9999e-5, 1e8, 1e8 + 8, 1000, 1001])
    kind = random.integers(6)
    if kind == 1:
        x = np.round(x * 10.0 ** random.integers(0, 12))
    elif kind == 2:
        x = x * 10.0 ** random.integers(-40, 40)
    elif kind == 3:
        x = np.exp(x * random.choice([1, 10, 100]))
    elif kind == 4:
        x = random.choice(special, count)
    elif kind == 5:
        x = np.where(random.random(count) < 0.2, random.choice(special[:5], count), x)
    return x


def random_array(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    count = math.prod(shape)
    with np.errstate(all="ignore"):
        if dtype == "bool":
            array = random.random(count) < random.choice([0.0, 0.5, 1.0])
        elif "int" in dtype:
            limits = np.iinfo(dtype)
            low, high = (limits.min, limits.max) if random.random() < 0.3 else (0, 100)
            array = random.integers(low, high, count, dtype=dtype, endpoint=True)
        elif "complex" in dtype:
            array = np.empty(count, dtype)
            array.real, array.imag = random_reals(random, count), random_reals(random, count)
        else:
            array = random_reals(random, count).astype(dtype)
    return array.reshape(shape)


shapes = st.one_of(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from([(999,), (1001,), (33, 40), (2, 700), (700, 2), (12, 11, 10), (3, 7, 8, 9)]),
)
print_options = st.fixed_dictionaries(
    {},
    optional={
        "profile": st.sampled_from(["default", "short", "full"]),
        "precision": st.integers(0, 9),
        "threshold": st.sampled_from([0, 1, 10, 100]),
        "edgeitems": st.integers(0, 6),
        "linewidth": st.sampled_from([1, 20, 60, 100, 200]),
        "sci_mode": st.booleans(),
    },
)


@pytest.mark.torch
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    dtype=st.sampled_from(DTYPES),
    options=print_options,
    default_dtype=st.sampled_from(["float32", "float64", "float16"]),
    requires_grad=st.booleans(),
)
def test_any_array_prints_as_in_pytorch(
    seed: int,
    shape: tuple[int, ...],
    dtype: str,
    options: dict[str, Any],
    default_dtype: str,
    requires_grad: bool,
) -> None:
    torch = pytest.importorskip("torch")
    array = random_array(np.random.default_rng(seed), shape, dtype)
    tensor = torch.from_numpy(array.copy())
    requires_grad = requires_grad and array.dtype.kind in "fc"
    name = None
    if requires_grad:
        tensor.requires_grad_()
        if seed % 2:
            tensor, name = tensor.clone(), "CloneBackward0"
    set_printoptions(profile="default")
    torch.set_default_dtype(getattr(torch, default_dtype))
    torch.set_printoptions(**options)
    try:
        expected = repr(tensor)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_printoptions(profile="default")
    with printoptions(**options):
        assert expected == format_tensor(
            array, default_dtype=default_dtype, requires_grad=requires_grad, grad_fn_name=name
        )
