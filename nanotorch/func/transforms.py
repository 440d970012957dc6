"""Functions that make functions: gradients, products with Jacobians, Jacobians and Hessians.

The transforms take a function of tensors, or of tuples, lists and dicts of them, and compose: the
gradient of a gradient, a Jacobian by forward mode of one by reverse mode, and so on. `argnums` says
which positional arguments are differentiated; with an int the result is for that argument, with a
tuple it is a tuple. `has_aux` says that the function returns (output, something else to be handed
through). Names and results are those of https://docs.pytorch.org/docs/stable/func.api.html.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from nanotorch import ops
from nanotorch.autograd.forward_ad import FORWARD, dual_level, make_dual, unpack_dual
from nanotorch.autograd.functional import unit_vectors
from nanotorch.autograd.grad_mode import enable_grad, modes
from nanotorch.func.levels import Level, call
from nanotorch.func.structures import described, leaves, mapped, rebuilt
from nanotorch.tensor import Tensor

ArgNums = int | tuple[int, ...]


def argument_places(args: tuple[Any, ...], argnums: ArgNums, op: str) -> list[int]:
    """The places of the arguments to differentiate, counted from the front."""
    several = argnums if isinstance(argnums, tuple) else (argnums,)
    if not several:
        raise ValueError(f"{op}: argnums must name at least one argument")
    for place in several:
        if not -len(args) <= place < len(args):
            raise RuntimeError(f"{op}: got argnum={place}, but only {len(args)} positional inputs")
    return [place % len(args) for place in several]


def lift_arguments(
    level: Level, args: tuple[Any, ...], argnums: ArgNums, op: str
) -> tuple[list[Any], Any, list[Tensor]]:
    """(all arguments, the part that is differentiated, its tensors), at this level."""
    places = argument_places(args, argnums, op)
    arguments = list(args)
    for place in places:
        arguments[place] = mapped(lambda x: level.lift(x, op), args[place])
    part = (
        tuple(arguments[p] for p in places) if isinstance(argnums, tuple) else arguments[places[0]]
    )
    return arguments, part, leaves(part)


def with_aux(result: Any, has_aux: bool, op: str) -> tuple[Any, Any]:
    """(output, aux) of what a function returned."""
    if not has_aux:
        return result, None
    if not isinstance(result, tuple) or len(result) != 2:
        raise RuntimeError(
            f"{op}: with has_aux=True the function must return a tuple (output, aux), got "
            f"{type(result).__name__}"
        )
    return result


def only_tensors(output: Any, op: str) -> list[Tensor]:
    """The values of an output, which must be tensors."""
    values = leaves(output)
    for value in values:
        if not isinstance(value, Tensor):
            raise RuntimeError(
                f"{op}: expected the function to return only Tensors, got {type(value).__name__}"
            )
    return values


def scalar(output: Any, op: str) -> Tensor:
    """The output of a function to be differentiated, which must be one number."""
    if not isinstance(output, Tensor):
        raise RuntimeError(
            f"{op}: expected the function to return a Tensor, got {type(output).__name__}"
        )
    if output.ndim:
        raise RuntimeError(
            f"{op}: expected the function to return a scalar Tensor, got one of shape "
            f"{tuple(output.shape)}; use vjp or jacrev for others"
        )
    if not output.is_floating_point():
        raise RuntimeError(f"{op}: expected a floating point output, got {output.dtype}")
    return output


def grad_and_value(
    func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns (gradient, func's value), or (gradient, (value, aux))."""

    @functools.wraps(func)
    def gradient_and_value(*args: Any, **kwargs: Any) -> Any:
        level = Level()
        with enable_grad():
            arguments, part, xs = lift_arguments(level, args, argnums, "grad")
            result = call(func, "grad", *arguments, **kwargs)
            output, aux = with_aux(result, has_aux, "grad")
            value = scalar(output, "grad")
            gradients = [level.leave(g) for g in level.pull([value], xs, None)]
        gradient = rebuilt(part, gradients)
        if has_aux:
            return gradient, (level.leave(value), mapped(level.leave, aux))
        return gradient, level.leave(value)

    return gradient_and_value


def value_and_grad(
    func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns (func's value, gradient), or ((value, aux), gradient)."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        gradient, value = both(*args, **kwargs)
        return value, gradient

    return value_and_gradient


def grad(
    func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns the gradient of func, which returns a 0-dim tensor."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        result, value = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), pull), with aux last if there is one.

    pull(cotangents), in the structure of the output, returns a tuple: one entry for each primal.
    """
    level = Level()
    with enable_grad():
        inputs = mapped(lambda x: level.lift(x, "vjp"), primals)
        output, aux = with_aux(call(func, "vjp", *inputs), has_aux, "vjp")
        xs, ys = leaves(inputs), only_tensors(output, "vjp")

    def pull(*cotangents: Any) -> Any:
        structure = cotangents[0] if len(cotangents) == 1 else cotangents
        if described(structure) != described(output):
            raise RuntimeError(
                "vjp: expected the structure of cotangents to be that of the outputs of the "
                f"function, {described(output)}, got {described(structure)}"
            )
        inner = Level()
        inner.leaves = level.leaves
        with enable_grad():
            gradients = [level.leave(g) for g in inner.pull(ys, xs, leaves(structure))]
        return rebuilt(primals, gradients)

    value = mapped(level.leave, output)
    return (value, pull, mapped(level.leave, aux)) if has_aux else (value, pull)


def jvp(
    func: Callable[..., Any],
    primals: Any,
    tangents: Any,
    *,
    strict: bool = False,
    has_aux: bool = False,
) -> Any:
    """(func(*primals), J tangents), with aux last if there is one; primals and tangents are tuples.

    One evaluation in forward mode. Inside another forward pass two reverse passes do the same.
    With `strict` an output that does not depend on the primals is a RuntimeError instead of a zero.
    """
    if not isinstance(primals, tuple) or described(primals) != described(tangents):
        raise RuntimeError(
            "jvp: expected primals and tangents to be tuples of the same structure, got "
            f"{described(primals)} and {described(tangents)}"
        )
    if FORWARD in modes.rings:
        return jvp_by_reverse(func, primals, tangents, strict, has_aux)
    with dual_level():
        pairs = zip(leaves(primals), leaves(tangents), strict=True)
        duals = rebuilt(primals, [make_dual(p, t) for p, t in pairs])
        output, aux = with_aux(call(func, "jvp", *duals), has_aux, "jvp")
        ys = [unpack_dual(y) for y in only_tensors(output, "jvp")]
        if strict and any(y.tangent is None for y in ys):
            raise RuntimeError(
                "jvp: an output of the function does not depend on the primals (strict)"
            )
        moved = [ops.zeros_like(y.primal) if y.tangent is None else y.tangent for y in ys]
        aux = mapped(lambda x: unpack_dual(x).primal if isinstance(x, Tensor) else x, aux)
    results = rebuilt(output, [y.primal for y in ys]), rebuilt(output, moved)
    return (*results, aux) if has_aux else results


def transpose(
    level: Level, func: Callable[..., Any], primals: tuple[Any, ...], has_aux: bool, op: str
) -> tuple[Any, Any, list[Tensor], list[Tensor], list[Tensor]]:
    """(output, aux, its tensors, dummies u, Jᵀ u); pulling t back through Jᵀ u gives J t."""
    inputs = mapped(lambda x: level.lift(x, op), primals)
    output, aux = with_aux(call(func, op, *inputs), has_aux, op)
    ys = only_tensors(output, op)
    dummies = [level.leaf(ops.zeros_like(y)) for y in ys]
    return output, aux, ys, dummies, level.pull(ys, leaves(inputs), dummies, record=True)


def jvp_by_reverse(
    func: Callable[..., Any], primals: tuple[Any, ...], tangents: Any, strict: bool, has_aux: bool
) -> Any:
    """`jvp` by two reverse passes."""
    level = Level()
    with enable_grad():
        output, aux, ys, dummies, products = transpose(level, func, primals, has_aux, "jvp")
        if strict and not all(y.requires_grad for y in ys):
            raise RuntimeError(
                "jvp: an output of the function does not depend on the primals (strict)"
            )
        record = level.outer_grad and level.reaches_outside([*ys, *leaves(tangents)])
        moved = [level.leave(t) for t in level.pull(products, dummies, leaves(tangents), record)]
    results = mapped(level.leave, output), rebuilt(output, moved)
    return (*results, mapped(level.leave, aux)) if has_aux else results


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(func(*primals), push): push(*tangents) gives J tangents without evaluating func again."""
    level = Level()
    with enable_grad():
        output, _, _, dummies, products = transpose(level, func, primals, False, "linearize")

    def push(*tangents: Any) -> Any:
        if described(tangents) != described(primals):
            raise RuntimeError(
                f"linearize: expected tangents of structure {described(primals)}, got "
                f"{described(tangents)}"
            )
        with enable_grad():
            moved = level.pull(products, dummies, leaves(tangents))
            return rebuilt(output, [level.leave(t) for t in moved])

    return mapped(level.leave, output), push


def jacrev(
    func: Callable[..., Any], argnums: ArgNums = 0, *, has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """The Jacobian of func by reverse mode: one backward pass per element of the output.

    The result has the structure of the output, with the structure of the argument(s) in it; each
    tensor has the shape of the output followed by that of the input. Rows are computed one by one
    whatever chunk_size says.
    """

    @functools.wraps(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        level = Level()
        with enable_grad():
            arguments, part, xs = lift_arguments(level, args, argnums, "jacrev")
            output, aux = with_aux(call(func, "jacrev", *arguments, **kwargs), has_aux, "jacrev")
            blocks = []
            for y in only_tensors(output, "jacrev"):
                record = level.outer_grad and level.reaches_outside([y])
                rows = [level.pull([y], xs, [basis], record) for basis in unit_vectors(y)]
                block = [
                    level.leave(join([row[j] for row in rows], 0, y, x)) for j, x in enumerate(xs)
                ]
                blocks.append(rebuilt(part, block))
        result = rebuilt(output, blocks)
        return (result, mapped(level.leave, aux)) if has_aux else result

    return jacobian


def join(pieces: Sequence[Tensor], dim: int, y: Tensor, x: Tensor) -> Any:
    """Rows (dim 0) or columns (dim y.ndim) of a Jacobian, in the shape of y and then of x."""
    shape = (*y.shape, *x.shape)
    if not pieces:
        return ops.reshape(
            ops.narrow(ops.reshape(ops.zeros_like(x if y.numel() == 0 else y), (-1,)), 0, 0, 0),
            shape,
        )
    return ops.reshape(ops.stack(list(pieces), dim), shape)


def jacfwd(
    func: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False, *,
    chunk_size: int | None = None, randomness: str = "error",
) -> Callable[..., Any]:  # fmt: skip
    """The Jacobian of func by forward mode: one evaluation of func per element of the input.

    The result is that of `jacrev`. Columns are computed one by one whatever chunk_size says. Inside
    another forward pass the rows are computed by reverse mode instead.
    """

    @functools.wraps(func)
    def jacobian(*args: Any, **kwargs: Any) -> Any:
        if FORWARD in modes.rings:
            return jacrev(func, argnums, has_aux=has_aux)(*args, **kwargs)
        places = argument_places(args, argnums, "jacfwd")
        part = tuple(args[p] for p in places) if isinstance(argnums, tuple) else args[places[0]]
        xs = leaves(part)

        def moved(*values: Any) -> Any:
            arguments = list(args)
            replaced = rebuilt(part, values)
            for place, value in zip(
                places, replaced if isinstance(argnums, tuple) else (replaced,), strict=True
            ):
                arguments[place] = value
            return call(func, "jacfwd", *arguments, **kwargs)

        columns: list[list[list[Tensor]]] = []
        output = aux = None
        for j, x in enumerate(xs):
            columns.append([])
            for basis in unit_vectors(x):
                tangents = tuple(basis if i == j else ops.zeros_like(z) for i, z in enumerate(xs))
                output, push, *rest = jvp(moved, tuple(xs), tangents, has_aux=has_aux)
                aux = rest[0] if rest else None
                columns[j].append(leaves(push))
        if output is None:  # no element, and so no column, but the shape of an output
            output = moved(*xs)
            output, aux = with_aux(output, has_aux, "jacfwd")
        blocks = []
        for i, y in enumerate(leaves(output)):
            block = [
                join([column[i] for column in columns[j]], y.ndim, y, x) for j, x in enumerate(xs)
            ]
            blocks.append(rebuilt(part, block))
        result = rebuilt(output, blocks)
        return (result, aux) if has_aux else result

    return jacobian


def hessian(func: Callable[..., Any], argnums: ArgNums = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of func, by forward mode over reverse mode."""
    return jacfwd(jacrev(func, argnums), argnums)


def hvp(func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """H v of a function that returns a 0-dim tensor, without the Hessian H: forward over reverse.

    For one primal the product with it, for several a tuple.
    """
    argnums: ArgNums = 0 if len(primals) == 1 else tuple(range(len(primals)))
    return jvp(grad(func, argnums), primals, tangents)[1]
