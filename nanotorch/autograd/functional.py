"""Jacobians, Hessians and their products with vectors, of functions of one tensor or of several.

The functions take and return what `torch.autograd.functional` does
(https://docs.pytorch.org/docs/stable/autograd.html#functional-higher-level-api). With
`create_graph` the results can be differentiated further; with `strict` an output that does not
depend on an input is a RuntimeError instead of a zero. `nanotorch.func` has the same for functions
that are composed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.backward import grad
from nanotorch.autograd.engine import requires_grad
from nanotorch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from nanotorch.autograd.grad_mode import enable_grad
from nanotorch.backend import on_device_of
from nanotorch.node import Traced

Tensors = tuple[Any, ...]


def as_tuple(value: Any, role: str, op: str) -> tuple[Tensors, bool]:
    """(the tensors, whether there were several); TypeError for anything else."""
    several = isinstance(value, tuple | list)
    values = tuple(value) if several else (value,)
    for index, item in enumerate(values):
        if not isinstance(item, Traced):
            place = f" at index {index}" if several else ""
            raise TypeError(
                f"{op}: expected {role} to be a Tensor or a tuple of Tensors, got "
                f"{type(item).__name__}{place}"
            )
    return values, several


def back(values: Sequence[Any], several: bool) -> Any:
    """A tuple where there were several, else the one value."""
    return tuple(values) if several else values[0]


def watched(inputs: Tensors, create_graph: bool) -> Tensors:
    """The inputs as tensors whose use is recorded, joined to the outer graph where wanted."""
    return tuple(
        ops.alias(x) if create_graph and requires_grad(x) else x.detach().requires_grad_()
        for x in inputs
    )


def finished(values: Sequence[Any], create_graph: bool) -> Tensors:
    """The results: outside of the graph unless it was asked for."""
    return tuple(v if create_graph or v is None else v.detach() for v in values)


def evaluated(func: Callable[..., Any], inputs: Tensors, op: str) -> tuple[Tensors, bool]:
    """The outputs of func, checked to be tensors."""
    return as_tuple(func(*inputs), "the outputs of func", op)


def gradients(
    outputs: Sequence[Any],
    inputs: Tensors,
    cotangents: Any,
    create_graph: bool,
    strict: bool,
    op: str,
) -> list[Any]:
    """The gradients of the outputs, with zeros for inputs that they do not depend on."""
    places = [i for i, y in enumerate(outputs) if requires_grad(y)]
    if strict and len(places) < len(outputs):
        missing = next(i for i in range(len(outputs)) if i not in places)
        raise RuntimeError(f"{op}: output {missing} of func is independent of the inputs (strict)")
    if not places:
        return [ops.zeros_like(x) for x in inputs]
    found = grad(
        [outputs[i] for i in places],
        inputs,
        None if cotangents is None else [cotangents[i] for i in places],
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )
    if strict and any(g is None for g in found):
        index = next(i for i, g in enumerate(found) if g is None)
        raise RuntimeError(f"{op}: the outputs of func are independent of input {index} (strict)")
    return [ops.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def directions(v: Any, like: Tensors, several: bool, names: tuple[str, str], op: str) -> Tensors:
    """The vectors of a product, of the shapes of what they multiply; 1 where that is one number."""
    role, against = names
    if v is None:
        if len(like) != 1 or like[0]._array.size != 1:
            raise RuntimeError(f"{op}: v can only be None if the {against} is a single element")
        return (ops.ones_like(like[0]),)
    vectors, _ = as_tuple(v, role, op)
    if len(vectors) != len(like):
        raise RuntimeError(f"{op}: expected {len(like)} vectors as {role}, got {len(vectors)}")
    for index, (vector, x) in enumerate(zip(vectors, like, strict=True)):
        if vector._array.shape != x._array.shape:
            raise RuntimeError(
                f"{op}: {role}[{index}] has shape {tuple(vector._array.shape)}, expected "
                f"{tuple(x._array.shape)} as the {against} has"
            )
    return vectors


def vjp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """(func(inputs), v^T J): v has the shapes of the outputs, the product those of the inputs."""
    with enable_grad():
        xs, several = as_tuple(inputs, "inputs", "vjp")
        xs = watched(xs, create_graph)
        ys, many = evaluated(func, xs, "vjp")
        vs = directions(v, ys, many, ("v", "output of func"), "vjp")
        products = gradients(ys, xs, vs, create_graph, strict, "vjp")
    return back(finished(ys, create_graph), many), back(finished(products, create_graph), several)


def jvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """(func(inputs), J v): v has the shapes of the inputs, the product those of the outputs.

    By two reverse passes: v^T J is linear in v, and J is its derivative. `forward_ad` needs one
    pass.
    """
    with enable_grad():
        xs, several = as_tuple(inputs, "inputs", "jvp")
        vs = directions(v, xs, several, ("v", "input of func"), "jvp")
        xs = watched(xs, create_graph)
        ys, many = evaluated(func, xs, "jvp")
        dummies = tuple(ops.zeros_like(y).requires_grad_() for y in ys)
        transposed = gradients(ys, xs, dummies, True, strict, "jvp")
        products = gradients(transposed, dummies, vs, create_graph, False, "jvp")
    return back(finished(ys, create_graph), many), back(finished(products, create_graph), many)


def scalar_output(func: Callable[..., Any], inputs: Tensors, op: str) -> Any:
    """The output of func, which must be one number."""
    ys, many = evaluated(func, inputs, op)
    if many or ys[0]._array.size != 1:
        got = f"{len(ys)} outputs" if many else f"shape {tuple(ys[0]._array.shape)}"
        raise RuntimeError(f"{op}: func should return a single-element Tensor, got {got}")
    return ys[0]


def vhp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """(func(inputs), v^T H), H the Hessian of a function of one number as output."""
    with enable_grad():
        xs, several = as_tuple(inputs, "inputs", "vhp")
        vs = directions(v, xs, several, ("v", "input of func"), "vhp")
        xs = watched(xs, create_graph)
        y = scalar_output(func, xs, "vhp")
        slopes = gradients((y,), xs, None, True, strict, "vhp")
        products = gradients(slopes, xs, vs, create_graph, strict, "vhp")
    return finished((y,), create_graph)[0], back(finished(products, create_graph), several)


def hvp(
    func: Callable[..., Any],
    inputs: Any,
    v: Any = None,
    create_graph: bool = False,
    strict: bool = False,
) -> tuple[Any, Any]:
    """(func(inputs), H v); the same as `vhp` where the Hessian is symmetric."""
    with enable_grad():
        xs, several = as_tuple(inputs, "inputs", "hvp")
        vs = directions(v, xs, several, ("v", "input of func"), "hvp")
        xs = watched(xs, create_graph)
        y = scalar_output(func, xs, "hvp")
        slopes = gradients((y,), xs, None, True, strict, "hvp")
        dummies = tuple(ops.zeros_like(x).requires_grad_() for x in xs)
        transposed = gradients(slopes, xs, dummies, True, strict, "hvp")
        products = gradients(transposed, dummies, vs, create_graph, False, "hvp")
    return finished((y,), create_graph)[0], back(finished(products, create_graph), several)


def jacobian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:
    """J[i][j] of shape output i + input j: nested tuples where there are several of either.

    strategy: "reverse-mode" walks backward once per output element, "forward-mode" evaluates func
    once per input element. vectorize: accepted as PyTorch has it; rows are computed one after the
    other.
    """
    if strategy not in ("reverse-mode", "forward-mode"):
        raise ValueError(
            f"jacobian: strategy must be 'reverse-mode' or 'forward-mode', got {strategy!r}"
        )
    if strategy == "forward-mode":
        if create_graph:
            raise NotImplementedError(
                "jacobian: forward-mode gives no graph; use strategy='reverse-mode' or "
                "nanotorch.func.jacfwd"
            )
        return forward_jacobian(func, inputs)
    with enable_grad():
        xs, several = as_tuple(inputs, "inputs", "jacobian")
        xs = watched(xs, create_graph)
        ys, many = evaluated(func, xs, "jacobian")
        blocks = []
        for index, y in enumerate(ys):
            rows = []
            for basis in unit_vectors(y):
                row = gradients((y,), xs, (basis,), create_graph, strict, "jacobian")
                rows.append(finished(row, create_graph))
            blocks.append(back([stacked(rows, j, y, x) for j, x in enumerate(xs)], several))
            if strict and create_graph and not all(requires_grad(g) for row in rows for g in row):
                raise RuntimeError(
                    f"jacobian: the Jacobian of output {index} is independent of the inputs "
                    "(strict)"
                )
    return back(blocks, many)


def stacked(rows: Sequence[Tensors], j: int, y: Any, x: Any) -> Any:
    """The rows that belong to input j, in the shape of output y + input x."""
    shape = (*y._array.shape, *x._array.shape)
    if not rows:
        return ops.reshape(
            ops.expand(ops.reshape(ops.zeros_like(y), (0, 1)), (0, x._array.size)), shape
        )
    return ops.reshape(ops.stack([row[j] for row in rows]), shape)


def unit_vectors(x: Any) -> list[Any]:
    """For each element of x a tensor of its shape, 1 there and 0 elsewhere."""
    vectors = []
    for place in range(x._array.size):
        vector = ops.zeros_like(x)
        with on_device_of(vector._array):
            vector._array.reshape(-1)[place] = 1
        vectors.append(vector)
    return vectors


def forward_jacobian(func: Callable[..., Any], inputs: Any) -> Any:
    """The Jacobian column by column: one evaluation, with its tangent, per input element."""
    xs, several = as_tuple(inputs, "inputs", "jacobian")
    xs = tuple(x.detach() for x in xs)
    columns: list[list[Tensors]] = [[] for _ in xs]
    with dual_level():
        ys, many = evaluated(func, xs, "jacobian")
        for j, x in enumerate(xs):
            for basis in unit_vectors(x):
                moved = [make_dual(z, basis) if z is x else z for z in xs]
                duals = [unpack_dual(y) for y in evaluated(func, tuple(moved), "jacobian")[0]]
                columns[j].append(
                    tuple(
                        ops.zeros_like(d.primal) if d.tangent is None else d.tangent for d in duals
                    )
                )
    blocks = [
        back([column_block(columns[j], i, y, x) for j, x in enumerate(xs)], several)
        for i, y in enumerate(ys)
    ]
    return back(blocks, many)


def column_block(columns: Sequence[Tensors], i: int, y: Any, x: Any) -> Any:
    """The columns of output i, in the shape of output y + input x."""
    block = ops.stack([column[i] for column in columns], y._array.ndim)
    return ops.reshape(block, (*y._array.shape, *x._array.shape))


def hessian(
    func: Callable[..., Any],
    inputs: Any,
    create_graph: bool = False,
    strict: bool = False,
    vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:
    """H[i][j] of shape input i + input j, of a function of one number as output.

    A tuple of tuples where the inputs are a tuple. With outer_jacobian_strategy="forward-mode" the
    gradient is differentiated column by column.
    """
    xs, several = as_tuple(inputs, "inputs", "hessian")

    def slopes(*points: Any) -> Any:
        with enable_grad():
            points = tuple(x if requires_grad(x) else recorded_beside_tangent(x) for x in points)
            y = scalar_output(func, points, "hessian")
            return tuple(gradients((y,), points, None, True, strict, "hessian"))

    blocks = jacobian(slopes, xs, create_graph, strict, vectorize, outer_jacobian_strategy)
    return blocks if several else blocks[0][0]


def recorded_beside_tangent(x: Any) -> Any:
    """A leaf of the value of x that requires grad and carries the tangent of x."""
    leaf = x._wrap(x._array)
    leaf._companion, leaf._requires_grad = x._companion, True
    return leaf
