"""Random programs of tensors, run on NanoTorch and on PyTorch side by side.

A program is made line by line: each line is chosen from what the variables so far allow (and
sometimes do not allow), run on both, and everything visible is compared: values, gradients,
requires_grad, is_leaf, versions, and the classes of errors. A `Difference` carries the program's
lines.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import numpy

import nanotorch

SHAPES = ((), (1,), (3,), (4,), (2, 3), (3, 3), (3, 1), (1, 3), (2, 1, 3), (0, 3), (2, 2, 3))
UNARY = (
    "tanh", "sigmoid", "sin", "cos", "neg", "square", "relu", "abs", "clone", "atan", "sign",
    "floor", "erf", "exp", "expm1", "detach", "contiguous", "round",
)  # fmt: skip
IN_PLACE_UNARY = (
    "tanh_", "sigmoid_", "sin_", "cos_", "neg_", "relu_", "abs_", "zero_", "floor_", "ceil_",
    "detach_", "requires_grad_", "square_",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "maximum", "minimum", "logaddexp", "hypot")
REDUCTIONS = ("sum", "mean", "amax", "amin", "prod", "var", "std", "logsumexp", "norm")
OVERLAP = ("refer to a single memory location", "more than one element of the written-to tensor")
# Where PyTorch's own answer depends on the path it takes, or is an error of its own making.
PYTORCH_ONLY = (
    "not implemented", "with a bool tensor is not supported", "for dimension with size 0",
    "has been detached in-place", "stack expects a non-empty", "has not been implemented",
    "must be either float or double", "Trying to use forward AD",
    "'NoneType' object has no attribute",
)  # fmt: skip
# Where a line is wrong in two ways, and each library finds another one first.
TWO_ERRORS = (
    "indexing tensors could not be broadcast", "should be positive", "modified by an inplace",
)  # fmt: skip
# What is checked or refused on the CPU alone: see docs/gpu.md.
CPU_ONLY = (
    "ZeroDivisionError", "input should be between 0 and 1", "to indexing result of shape [0]",
)  # fmt: skip
LIMIT = 1e6  # beyond this, roundings grow into differences


class Difference(AssertionError):
    """What NanoTorch and PyTorch disagree on, after which lines."""


class Program:
    """One random program, with the variables of both libraries."""

    def __init__(self, random: Random, torch: Any) -> None:
        self.random, self.torch = random, torch
        self.lines: list[str] = []
        self.ours: dict[str, Any] = {"t": nanotorch}
        self.theirs: dict[str, Any] = {"t": torch}
        self.names: list[str] = []
        self.offsets: dict[str, int] = {}  # PyTorch counts some of its own steps as versions
        self.over = False

    def pick(self, options: Any) -> Any:
        return options[self.random.randrange(len(options))]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def name(self) -> str:
        """A variable, more often a recent one."""
        if self.chance(0.5):
            return str(self.pick(self.names[-3:]))
        return str(self.pick(self.names))

    def floating(self) -> str:
        """A variable of a floating dtype, where one is found soon."""
        for _ in range(6):
            name = self.name()
            if self.theirs[name].is_floating_point():
                return name
        return self.names[0]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.theirs[name].shape)

    def fitting(self, name: str) -> str:
        """A variable that broadcasts with the named one; now and then any."""
        if not self.chance(0.05):
            for _ in range(6):
                other = self.name()
                try:
                    numpy.broadcast_shapes(self.shape(name), self.shape(other))
                except ValueError:
                    continue
                return other
            return name
        return self.name()

    def dim(self, name: str) -> int:
        """A dimension of the variable, from the front or the back; rarely a wrong one."""
        ndim = max(len(self.shape(name)), 1)
        if self.chance(0.03):
            return self.random.randrange(-4, 4)
        return self.random.randrange(-ndim, ndim)

    def number(self) -> float:
        return float(self.pick((-1.5, -1.0, -0.5, 0.25, 0.5, 0.75, 1.0, 2.0)))

    def literal(self, shape: tuple[int, ...], whole: bool) -> str:
        size = int(numpy.prod(shape, dtype=int))
        if whole:
            values: Any = [self.random.randrange(-3, 4) for _ in range(size)]
        else:
            values = [self.random.randrange(-150, 151) / 100 or 0.5 for _ in range(size)]
        return str(numpy.array(values, "int64" if whole else "float64").reshape(shape).tolist())

    def key(self, name: str) -> str:
        """An index into the variable: ints, slices, None, `...`, lists, masks."""
        shape, items = self.shape(name), []
        if self.chance(0.1):
            return f"{name} > {self.number()}"
        for size in shape:
            kind = self.random.randrange(7)
            if kind == 0 or (kind == 1 and size == 0):
                break
            if kind == 1:
                low = -size - self.chance(0.03)
                items.append(str(self.random.randrange(low, size)))
            elif kind <= 4:
                start = self.random.randrange(0, size + 1)
                step = self.pick(("", "", ":2"))
                items.append(f"{start}:{self.random.randrange(start, size + 1)}{step}")
            elif kind == 5 and size:
                wanted = [self.random.randrange(size) for _ in range(self.pick((1, 2, 3)))]
                items.append(str(wanted))
            else:
                items.append(":")
        if self.chance(0.1):
            items.insert(self.random.randrange(len(items) + 1), "None")
        if self.chance(0.1):
            items.append("...")
        return ", ".join(items) if items else "..."

    def leaf(self) -> str:
        whole = self.chance(0.1) and bool(self.names)
        data = self.literal(self.pick(SHAPES), whole)
        if whole:
            return f"t.tensor({data}, dtype=t.int64)"
        kind = "float32" if self.chance(0.1) else "float64"
        return f"t.tensor({data}, dtype=t.{kind}, requires_grad={self.chance(0.6)})"

    def unary(self) -> str:
        return f"{self.floating()}.{self.pick(UNARY)}()"

    def binary(self) -> str:
        a = self.name()
        return f"t.{self.pick(BINARY)}({a}, {self.fitting(a)})"

    def operator(self) -> str:
        a = self.name()
        if self.chance(0.3):
            return self.pick((f"{a} * {self.number()}", f"{self.number()} - {a}", f"{a} ** 2",
                              f"{a} / 2", f"1 + {a}", f"{a} ** 3", f"{a} % 2"))  # fmt: skip
        return f"{a} {self.pick('+-*')} {self.fitting(a)}"

    def quotient(self) -> str:
        a = self.floating()
        return f"{a} / ({self.fitting(a)}.abs() + 1)"

    def reduction(self) -> str:
        a, how = self.floating(), self.pick(REDUCTIONS)
        if how == "norm":
            return f"{a}.norm()" if self.chance(0.5) else f"{a}.norm(2, {self.dim(a)})"
        if how == "logsumexp" or self.chance(0.5):
            keep = ", keepdim=True" if self.chance(0.4) else ""
            return f"{a}.{how}({self.dim(a)}{keep})"
        return f"{a}.{how}()"

    def extreme(self) -> str:
        a, how = self.floating(), self.pick(("max", "min"))
        return f"{a}.{how}()" if self.chance(0.4) else f"{a}.{how}({self.dim(a)})[0]"

    def view(self) -> str:
        a = self.name()
        shape, d = self.shape(a), self.dim(a)
        size = shape[d] if -len(shape) <= d < len(shape) else 1
        start = self.random.randrange(size + 1)
        return str(
            self.pick(
                (
                    f"{a}[{self.key(a)}]", f"{a}[{self.key(a)}]", f"{a}.view(-1)",
                    f"{a}.reshape({self.pick(SHAPES)})", f"{a}.reshape(-1)", f"{a}.transpose(0, "
                    f"{d})",
                    f"{a}.t()", f"{a}.unsqueeze({d})", f"{a}.squeeze()", f"{a}.squeeze({d})",
                    f"{a}.expand({self.pick(((2, 3), (3, 3), (2, 2, 3), (-1, 3)))})",
                    f"{a}.narrow({d}, {start}, {max(size - start, 0)})", f"{a}.detach()",
                    f"{a}.flatten()", f"{a}.view_as({a})", f"{a}.select({d}, "
                    f"{min(start, size - 1)})",
                    f"{a}.permute({tuple(reversed(range(len(shape))))})",
                    f"{a}.diagonal()", f"{a}.unbind({d})[0]", f"{a}.split(2, {d})[0]",
                    f"{a}.chunk(2, {d})[-1]", f"{a}.T" if len(shape) == 2 else f"{a}.movedim(0, "
                    "-1)",
                    f"{a}.view({self.pick(SHAPES)})",
                )
            )
        )  # fmt: skip

    def joining(self) -> str:
        a = self.name()
        same = [n for n in self.names if self.shape(n) == self.shape(a)]
        other = self.pick(same)
        how = self.pick(("cat", "stack", "hstack", "vstack"))
        dim = "" if "s" in how[1:] else f", {self.dim(a)}"
        return f"t.{how}([{a}, {other}]{dim})"

    def product(self) -> str:
        a = self.floating()
        for _ in range(8):
            b = self.floating()
            one, two = self.shape(a), self.shape(b)
            if one and two and one[-1] == two[max(len(two) - 2, 0)]:
                break
        return f"{a} @ {b}"

    def selection(self) -> str:
        a = self.floating()
        mask = f"{a}.detach() {self.pick('<>')} {self.number()}"
        return str(
            self.pick(
                (
                    f"t.where({mask}, {a}, {self.fitting(a)})", f"{a}.masked_fill({mask}, 0.5)",
                    f"t.masked_select({a}, {mask})", f"{a}.clamp(-0.5, 0.75)",
                    f"{a}.clamp(min=0.25)",
                    f"{a}.softmax({self.dim(a)})", f"{a}.log_softmax({self.dim(a)})",
                    f"{a}.cumsum({self.dim(a)})", f"{a}.tril()", f"{a}.flip({self.dim(a)})",
                    f"t.nn.functional.softplus({a})",
                    f"t.nn.functional.mse_loss({a}, {a}.detach() * 2)",
                    f"{a}.roll(1, {self.dim(a)})", f"{a}.float()", f"{a}.double()",
                    f"{a}.repeat(2, 1, 1)",
                    f"{a}.index_select({self.dim(a)}, t.tensor([0]))", f"t.ones_like({a})",
                    f"({a} if {a}.sum() > 0 else {a} * 3)", f"{a}.argmax(0) * 0", f"{a} > 0",
                )
            )
        )  # fmt: skip

    def statement(self) -> str:
        """A line that changes something in place or in the graph."""
        a, f = self.name(), self.floating()
        if self.of_a_gradient(a) or self.of_a_gradient(f):  # they may share memory in PyTorch
            a = f = self.names[0]
        b, c, key = self.fitting(a), self.number(), self.key(a)
        options = (
            f"{a}.{self.pick(IN_PLACE_UNARY)}()", f"{a}.{self.pick(IN_PLACE_UNARY)}()",
            f"{a}.add_({b})", f"{a}.mul_({b})", f"{a}.sub_({c})", f"{a}.mul_({c})", f"{a}.div_(2)",
            f"{a}.copy_({b})", f"{a}.fill_({c})", f"{a}.clamp_(-1, 1)", f"{a}.pow_(2)",
            f"{a}.masked_fill_({a} > 0, {c})", f"{a}[{key}] = {c}", f"{a}[{key}] = {b}",
            f"{a}[{key}] = {a}[{key}] * 2", f"{a}[{key}] += {c}", f"{a}[{key}].mul_({c})",
            f"{a}[{key}] = {f}.sum()", f"{a} += {b}", f"{a} *= {c}",
            f"{a}.detach().add_({c})", f"{f}.retain_grad()", f"{f}.register_hook(lambda g: g * 2)",
            f"{f}.register_hook(lambda g: None)", f"{f}.register_hook(lambda g: g + g.sum())",
            f"{f}.requires_grad_({self.chance(0.7)})", f"{f}.grad = None", f"{f}.grad.zero_()",
            f"{f}.grad = t.ones_like({f}).detach()", f"{a}.index_put_((t.tensor([0]),), "
            f"{f}.sum())" if self.shape(a) else f"{a}.sub_({f})",
            f"{a}.index_add_(0, t.tensor([0, 0]), {a}[[0, 0]])", f"{f}.lerp_({b}, 0.5)",
            f"{f}.addcmul_({b}, {b}, value=0.5)",
        )  # fmt: skip
        line = str(self.pick(options))
        if self.chance(0.15):
            return f"with t.no_grad(): {line}"
        return line

    def backward(self) -> str:
        a, retain = self.floating(), self.chance(0.5)
        wanted = [n for n in self.names if self.theirs[n].requires_grad][-3:] or [a]
        leaves = [n for n in wanted if self.theirs[n].is_leaf] or [self.names[0]]
        create = self.chance(0.3)
        again = f"retain_graph={retain or create}, create_graph={create}"
        return str(
            self.pick(
                (
                    f"{a}.sum().backward(retain_graph={retain})",
                    f"({a} * {a}).sum().backward(retain_graph={retain})",
                    f"{a}.backward(t.ones_like({a}), retain_graph={retain})",
                    f"{a}.backward()",
                    f"{a}.sum().backward(inputs=[{self.pick(leaves)}])",
                    f"G = t.autograd.grad(({a} * {a}).sum(), [{', '.join(wanted)}], "
                    "allow_unused=True, "
                    f"{again})",
                    f"G = t.autograd.grad({a}.sin().sum(), [{', '.join(wanted)}], {again})",
                )
            )
        )

    def line(self) -> str:
        """The next line of the program."""
        if len(self.names) < 2 or self.chance(0.06):
            return f"v{len(self.lines)} = {self.leaf()}"
        if self.chance(0.3):
            return self.statement()
        if self.chance(0.12):
            return self.backward()
        expressions: tuple[Callable[[], str], ...] = (
            self.unary, self.binary, self.operator, self.quotient, self.reduction, self.extreme,
            self.view, self.view, self.view, self.joining, self.product, self.selection,
        )  # fmt: skip
        expression = self.pick(expressions)()
        if self.chance(0.06):
            expression = self.pick(expressions[:6])()  # of views see docs/differences.md
            return f"with t.no_grad(): v{len(self.lines)} = {expression}"
        return f"v{len(self.lines)} = {expression}"

    def run(self, length: int) -> None:
        """Makes and runs `length` lines; raises Difference."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(length):
                self.run_line(self.line())
                if self.over:
                    return

    def run_line(self, line: str) -> None:
        self.lines.append(line)
        code = compile(line, "<program>", "exec")
        theirs, ours = (self.attempt(code, space) for space in (self.theirs, self.ours))
        if nanotorch.get_default_device().type == "cuda":
            written = re.search(r"\[(\d+(?:, \d+)+)\]+ [-+*/]?= ", line)
            places = written[1].split(", ") if written else []
            left_open = len(set(places)) < len(places)  # which of several values remains
            if left_open or any(part in str(theirs) for part in CPU_ONLY):
                self.over = True
                return
        if theirs is not None:
            message = str(theirs)
            reasons = ("modified by an inplace", "second time", "view size is not compatible")
            stale = ours is None and any(part in message for part in reasons)  # PyTorch keeps more
            if stale or any(part in message for part in (*OVERLAP, *PYTORCH_ONLY)):
                self.over = True
                return
            if ours is None:
                self.fail(f"PyTorch raises {type(theirs).__name__}: {message}\nNanoTorch does not")
        if ours is not None and theirs is None:
            empty = any(0 in self.theirs[n].shape for n in self.names)  # it checks less for these
            # See docs/differences.md; of some products of batches PyTorch keeps copies.
            kept = (
                "to a single memory location", "read-only", "not compatible with the strides",
                "UnsafeViewBackward0: input",
            )  # fmt: skip
            if empty or any(part in str(ours) for part in kept):
                self.over = True
                return
            self.fail(f"NanoTorch raises {type(ours).__name__}: {ours}\nPyTorch does not")
        if ours is not None and theirs is not None and not isinstance(ours, type(theirs)):
            if any(part in str(theirs) for part in TWO_ERRORS):
                self.over = True
                return
            self.fail(
                f"NanoTorch raises {type(ours).__name__}: {ours}\n"
                f"PyTorch {type(theirs).__name__}: {theirs}"
            )
        if theirs is None:
            self.gradients()
        elif "backward" in line or re.search(r"\bgrad\(", line) or "ZeroDivision" in str(theirs):
            self.over = True  # what a walk that fails leaves behind is nobody's promise
            return
        name = line.removeprefix("with t.no_grad(): ").split(" = ")[0]
        if name in self.theirs:
            self.follow(name)
        self.compare()

    def follow(self, name: str) -> None:
        """Takes up a variable that the last line assigned."""
        if name not in self.names and name[0] == "v":
            self.begin(name)

    def attempt(self, code: Any, space: dict[str, Any]) -> Exception | None:
        """Runs a line in one of the libraries; the error it raised, if any."""
        error = attempt(code, space)
        if space["t"] is nanotorch and nanotorch.get_default_device().type == "cuda":
            return attempt("t.cuda.synchronize()", space) or error  # of indices it tells late
        return error

    def gradients(self) -> None:
        """Turns what autograd.grad returned into variables."""
        found, expected = self.ours.pop("G", ()), self.theirs.pop("G", ())
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            if (one is None) != (other is None):
                self.fail(f"gradient {i}: NanoTorch {one}\nPyTorch {other}")
            if other is not None:
                name = f"g{len(self.lines)}_{i}"
                # Copies: gradients that PyTorch returns may share memory with each other.
                self.ours[name], self.theirs[name] = one.clone(), other.clone()
                self.begin(name)
                self.lines[-1] += f"; {name} = G[{i}].clone()"

    def begin(self, name: str) -> None:
        """Starts to follow a new variable."""
        self.names.append(name)
        base = self.ours[name]._base
        of_base = [n for n in self.offsets if base is not None and self.ours[n] is base]
        self.offsets[name] = self.theirs[name]._version - self.ours[name]._version
        if of_base:
            self.offsets[name] = self.offsets[of_base[0]]

    def compare(self) -> None:
        """Fails unless every variable looks the same in both libraries."""
        for name in self.names:
            ours, theirs = self.ours[name], self.theirs[name]
            self.same(name, ours, theirs)
            self.grads(name, ours, theirs)

    def grads(self, name: str, ours: Any, theirs: Any) -> None:
        if self.over or not (theirs.is_leaf or theirs.retains_grad):
            return
        if (ours.grad is None) != (theirs.grad is None):
            self.fail(f"{name}.grad: NanoTorch {ours.grad}\nPyTorch {theirs.grad}")
        if theirs.grad is not None:
            self.same(f"{name}.grad", ours.grad, theirs.grad)

    def same(self, name: str, ours: Any, theirs: Any) -> None:
        if theirs.requires_grad and not theirs.is_floating_point():
            self.over = True  # PyTorch lets integers that a gradient was copied into require grad
            return
        for field in ("requires_grad", "is_leaf", "_version"):
            try:
                other = getattr(theirs, field)
            except RuntimeError:  # a view that PyTorch has given up on
                self.over = True
                return
            one = getattr(ours, field)
            if field == "_version":  # PyTorch lets gradients share memory, and counts more
                followed = name in self.offsets and not self.of_a_gradient(name)
                one = one + self.offsets[name] if followed else other
            empty = any(0 in self.theirs[n].shape for n in self.names)  # which it may leave out
            nothing = empty or view_outside_the_graph(theirs)
            copied = re.search(r"reshape|flatten", "".join(self.lines))  # here, and not there
            if one != other and field == "_version" and copied:
                self.over = True
                return
            if one != other and field == "requires_grad" and nothing:
                self.over = True
                return
            if one != other:
                self.fail(f"{name}.{field}: NanoTorch {one}, PyTorch {other}")
        if repr(ours.dtype) != repr(theirs.dtype) or tuple(ours.shape) != tuple(theirs.shape):
            self.fail(
                f"{name}: NanoTorch {ours.dtype} {tuple(ours.shape)}, "
                f"PyTorch {theirs.dtype} {tuple(theirs.shape)}"
            )
        one, other = array_of(ours), array_of(theirs)
        if other.dtype.kind == "f":
            kinds = {repr(self.theirs[n].dtype).removeprefix("torch.") for n in self.names}
            narrow = 1e-3 if "float32" in kinds else 1e-7
            narrow = 4e-2 if kinds & {*HALVES} else narrow
            rtol, atol = narrow, max(narrow, 1e-8)
            if not self.tame(one, other, narrow):
                self.over = True
                return
            if not numpy.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True):
                if self.excused():
                    self.over = True
                    return
                self.fail(f"{name}: NanoTorch\n{one}\nPyTorch\n{other}")
        elif not numpy.array_equal(one, other):
            if self.excused():
                self.over = True
                return
            self.fail(f"{name}: NanoTorch\n{one}\nPyTorch\n{other}")

    def tame(self, one: Any, other: Any, rounding: float) -> bool:
        """Whether the values are such that roundings do not grow into differences later."""
        return bool((numpy.abs(other) < LIMIT).all())

    def excused(self) -> bool:
        """Whether the last line's values may differ."""
        return self.overlapping()

    def of_a_gradient(self, name: str) -> bool:
        """Whether the variable is a gradient, or a view of one."""
        base = self.theirs[name]._base
        return name[0] == "g" or any(base is self.theirs[n] for n in self.names if n[0] == "g")

    def overlapping(self) -> bool:
        """Whether the last line names two variables that share memory: what is read while it is
        written."""
        named = {n for n in re.findall(r"[vg]\d+(?:_\d+)?", self.lines[-1]) if n in self.names}
        places = [self.theirs[n].untyped_storage().data_ptr() for n in named]
        return len(set(places)) < len(places)

    def fail(self, what: str) -> None:
        raise Difference("\n" + "\n".join(self.lines) + "\n" + what)


# --- corners --------------------------------------------------------------------------------------

PRELUDE = """
import copy, pickle
F = t.nn.functional

def resumed(mode, x):
    class Holder:
        @mode
        def values(self, x):
            while True:
                y = x.sin() * 2 if t.is_grad_enabled() else x.cos() * 2
                sent = yield y
                x = y if sent is None else sent + 1
    return Holder().values(x)
"""
CORNERS = ("nan", "inf", "-inf", "0.0", "-0.0", "1.0", "-1.0", "0.5", "-0.5", "2.5", "-2.5", "3.0",
           "-3.0", "6.0", "-6.0", "20.0", "-40.0")  # fmt: skip
CORNER_SHAPES = ((), (1,), (3,), (4,), (2, 3), (3, 3), (3, 1), (0,), (0, 3), (3, 0), (2, 0, 3),
                 (2, 2, 3))  # fmt: skip
INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
ACTIVATIONS = (
    "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "silu",
    "tanhshrink", "elu", "selu", "celu", "leaky_relu", "logsigmoid", "softsign", "softplus", "gelu",
)  # fmt: skip
FUNCTIONS = (
    "t.sigmoid({x})", "t.tanh({x})", "t.logit({x})", "t.xlogy({x}, {y})", "t.xlogy({x}, 2)",
    "t.xlogy(0.5, {x})", "t.sqrt({x})", "t.log1p({x})", "t.reciprocal({x})", "t.abs({x})",
    "t.sign({x})", "t.log({x})", "t.exp({x})", "t.rsqrt({x})", "t.clamp({x}, -1.0, 1.0)",
    "t.clamp({x}, min={y})", "t.maximum({x}, {y})", "t.minimum({x}, {y})", "t.logaddexp({x}, {y})",
    "t.hypot({x}, {y})", "t.atan2({x}, {y})", "{x} / {y}", "{x} ** {y}", "{x} ** 0", "{x} ** -1",
    "{x} ** 0.5", "{x} % {y}", "t.fmod({x}, {y})", "t.where({x} > 0, {x}.log(), {x})",
    "t.nan_to_num({x})", "t.square({x})", "{x}.cumsum(0)", "{x}.cumprod(-1)", "{x}.prod(0)",
    "{x}.logsumexp(-1)", "{x}.softmax(-1)", "{x}.log_softmax(0)", "{x}.amax(0)", "{x}.amin(-1)",
    "{x}.max(0)[0]", "{x}.median()", "{x}.median(0)[0]", "{x}.norm()", "{x}.norm(1)", "{x}.prod()",
    "t.linalg.vector_norm({x}, 3)", "{x}.norm(float('inf'))", "{x}.norm(0)", "{x}.std()",
    "{x}.var(0)", "{x}.mean()", "{x}.nansum()", "{x}.nanmean()", "{x}.sort(0)[0]", "{x}.sum(-1)",
    "{x}.max()", "{x}.quantile(0.3)",
)  # fmt: skip
LOSSES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss",
    "binary_cross_entropy", "hinge_embedding_loss",
)  # fmt: skip
LONG = (
    "{x}.mean()", "{x}.max()", "{x}.amin()", "F.l1_loss({x}, t.ones_like({x}))", "{x}.median()",
    "F.huber_loss({x}, t.ones_like({x}))", "{x}.norm(float('inf'))", "{x}.amax(-1)",
    "F.mse_loss({x}, {x} + 1)", "{x}.reshape(7, -1).mean(1)",
)  # fmt: skip
DIVISIONS = (
    "{a} // {b}", "{a} % {b}", "t.fmod({a}, {b})", "t.remainder({a}, {b})", "{a} / {b}",
    "t.div({a}, {b}, rounding_mode='floor')", "t.div({a}, {b}, rounding_mode='trunc')", "5 // {a}",
    "7 % {a}", "{a} // 0", "{a} % 2", "{a} << 1", "{a} >> {b}", "{a} & {b}", "{a} ** 2",
    "{a} == {b}", "t.floor_divide({a}, {b})", "{a} * {b}", "{a} + 200", "{a}.sum()",
    "{a}.prod(0)", "{a}.max()",
)  # fmt: skip
MODES = (
    "t.no_grad()", "t.no_grad", "t.enable_grad()", "t.set_grad_enabled(False)",
    "t.set_grad_enabled(True)", "t.inference_mode()",
)  # fmt: skip
# Slopes at NaN, where PyTorch's depend on the place in the array; see docs/differences.md.
SLOPE_AT_NAN = (
    "relu6", "hardtanh", "hardshrink", "softshrink", "elu", "celu", "selu", "hardswish",
    "prod", "nansum", "nanmean", "nan_to_num", "softmax",
)  # fmt: skip
HALVES = ("float16", "bfloat16")
STEPS = r"%|//|fmod|floor|round|ceil|trunc|sign|remainder|argmax|>|<|quantile|clamp|max|min|logit"


class CornerProgram(Program):
    """A random program at the corners: NaN, infinities, kinks, nothing at all, long sums of halves,
    integers divided by zero, modes on generators, copies of several tensors, second order."""

    def __init__(self, random: Random, torch: Any) -> None:
        super().__init__(random, torch)
        self.waiting: list[str] = []  # lines that follow the last one
        self.generators: list[str] = []
        for space in (self.ours, self.theirs):
            exec(PRELUDE, space)

    def literal(self, shape: tuple[int, ...], whole: bool) -> str:
        size = int(numpy.prod(shape, dtype=int))
        if whole or self.chance(0.2):
            return super().literal(shape, whole)
        values = numpy.array([float(self.pick(CORNERS)) for _ in range(size)])
        text = str(values.reshape(shape).tolist())
        return re.sub(r"(nan|inf)", r"float('\1')", text)

    def leaf(self) -> str:
        shape = self.pick(CORNER_SHAPES)
        if self.names and self.chance(0.25):
            data, kind = self.literal(shape, True), self.pick(INTEGERS)
            return f"t.tensor({data}).to(t.{kind})"
        if self.names and self.chance(0.04):
            number = self.pick(("0.0", "0.5", "2.0"))
            return (
                f"t.full((70_000,), {number}, dtype=t.{self.pick(HALVES)}, "
                f"requires_grad={self.chance(0.8)})"
            )
        kind = self.pick(("float64",) * 8 + ("float32", *HALVES))
        data = self.literal(shape, False)
        return f"t.tensor({data}, dtype=t.{kind}, requires_grad={self.chance(0.7)})"

    def long(self, name: str) -> bool:
        return int(numpy.prod(self.shape(name), dtype=int)) > 10_000

    def name(self) -> str:
        """A variable that is no long one."""
        for _ in range(10):
            name = super().name()
            if not self.long(name):
                return name
        return self.names[0]

    def integer(self) -> str:
        for _ in range(6):
            name = self.name()
            if not self.theirs[name].is_floating_point():
                return name
        return self.name()

    def finite(self, name: str) -> bool:
        return bool(self.theirs[name].isfinite().all())

    def allowed(self, functions: tuple[str, ...], name: str) -> str:
        """One of the functions whose slope PyTorch has at the variable's values."""
        function = str(self.pick(functions))
        halves = "float16" in repr(self.theirs[name].dtype)
        while (any(part in function for part in SLOPE_AT_NAN) and not self.finite(name)) or (
            halves and "0.5" in function
        ):
            function = str(self.pick(functions))
        return function

    def activation(self) -> str:
        x = self.floating()
        return f"F.{self.allowed(ACTIVATIONS, x)}({x})"

    def function(self) -> str:
        x = self.floating()
        y = self.pick((self.fitting(x), x, f"(0.5 * {x})", f"({x} * 0)"))
        return self.allowed(FUNCTIONS, x).format(x=x, y=y)

    def loss(self) -> str:
        x, name = self.floating(), self.pick(LOSSES)
        how = self.pick(("mean", "sum", "none"))
        if self.chance(0.4) and len(self.shape(x)) == 2 and self.shape(x)[1]:
            rows, columns = self.shape(x)
            targets = [self.pick((-100, self.random.randrange(columns))) for _ in range(rows)]
            more = self.pick(("", ", label_smoothing=0.25", ", ignore_index=0"))
            return (
                f"F.cross_entropy({x}, t.tensor({targets}, dtype=t.int64), reduction='{how}'{more})"
            )
        y = f"({x}.detach() * 0 + {self.pick((0.0, 0.5, 1.0))})"
        if name == "binary_cross_entropy":
            return f"F.{name}(t.sigmoid({x}), {y}.nan_to_num(0), reduction='{how}')"
        if name == "hinge_embedding_loss":
            y = f"t.ones_like({x}).detach() * {self.pick((-1, 1))}"
        return f"F.{name}({x}, {y}, reduction='{how}')"

    def division(self) -> str:
        a = self.integer()
        b = self.fitting(a) if self.chance(0.6) else self.pick(("0", "2", "-1", f"({a} * 0)"))
        return str(self.pick(DIVISIONS)).format(a=a, b=b)

    def long_sum(self) -> str:
        names = [name for name in self.names if self.long(name)]
        if not names:
            return self.activation()
        return str(self.pick(LONG)).format(x=self.pick(names))

    def transform(self) -> str:
        """Second order, tangents and batches, as constants: PyTorch has some depend on `a` by 0."""
        a = self.floating()
        if not numpy.prod(self.shape(a)) or "float16" in repr(self.theirs[a].dtype):
            return self.activation()  # halves are rounded within PyTorch's derivatives
        y = self.pick(("x", "(0.5 * x)", "(x * 0)"))
        inner = f"({self.allowed(FUNCTIONS, a).format(x='x', y=y)})"
        # Whose derivatives at 0 are others in PyTorch's transforms than outside.
        inner = inner.replace("atan2", "hypot").replace("logit", "log1p")
        if self.chance(0.3):
            inner = f"F.{self.allowed(ACTIVATIONS, a)}(x)"
        return str(
            self.pick(
                (
                    f"t.autograd.functional.hessian(lambda x: {inner}.sum(), {a})",
                    f"t.func.vmap(t.func.grad(lambda x: {inner}.sum()))({a})",
                    f"t.func.jacrev(lambda x: {inner})({a})",
                    f"t.func.vmap(lambda x: {inner})({a})",
                    f"t.func.jvp(lambda x: {inner}, ({a},), (t.ones_like({a}),))[1]"
                    if self.finite(a)
                    and self.theirs[a].dtype is self.torch.float64
                    and not re.search("clamp.*min|max.*x|min.*x", inner)
                    else f"t.func.grad(lambda x: {inner}.sum())({a})",
                )
            )
            + ".detach().clone()"
        )

    def copies(self) -> str:
        """Copies of two variables, which go on sharing memory if they did."""
        number = len(self.lines)
        on_gpu = nanotorch.get_default_device().type == "cuda"
        if self.chance(0.3) and not on_gpu:  # a pickle is loaded to the CPU
            return f"v{number} = pickle.loads(pickle.dumps({self.name()}))"
        a, b = self.name(), self.name()
        pair = f"({a}.detach(), {b}.detach().reshape(-1))" if self.chance(0.6) else f"({a}, {b})"
        if on_gpu:  # where each copy has memory of its own
            return f"P = copy.deepcopy({a}.detach()), {b}.detach().clone()"
        self.waiting += [f"v{number + 1} = P[0]", f"v{number + 2} = P[1]"]
        return f"P = copy.deepcopy({pair})"

    def generator(self) -> str:
        if not self.generators or self.chance(0.4):
            name = f"s{len(self.lines)}"
            self.generators.append(name)
            return f"{name} = resumed({self.pick(MODES)}, {self.floating()})"
        name = self.pick(self.generators)
        if self.chance(0.1):
            return f"{name}.close()"
        if self.chance(0.1):
            return f"{name}.throw(ValueError())"
        ask = f"{name}.send({self.floating()})" if self.chance(0.3) else f"next({name})"
        # A copy: of a tensor made in inference mode PyTorch tells less.
        return f"v{len(self.lines)} = {ask} * 1"

    def line(self) -> str:
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.names) >= 2 and self.chance(0.65):
            kind = self.random.randrange(20)
            if kind < 1:
                return self.copies()
            if kind < 3:
                return self.generator()
            if kind < 4:
                return self.in_place()
            expressions: tuple[Callable[[], str], ...] = (
                self.activation, self.function, self.function, self.loss, self.division,
                self.transform, self.long_sum, self.function,
            )  # fmt: skip
            return f"v{len(self.lines)} = {self.pick(expressions)()}"
        return super().line()

    def in_place(self) -> str:
        a = self.integer()
        value = self.pick(("0", "2.7", "float('nan')", "float('-inf')", "300", "-1", "True"))
        options = (
            f"{a}.fill_({value})", f"{a}[{self.key(a)}] = {value}", f"{a} //= {value}",
            f"{a} %= {self.fitting(a)}", f"{a}.masked_fill_({a} > 0, {value})", f"{a} += {value}",
            f"{a}.floor_divide_({self.fitting(a)})", f"{a}.fmod_({value})",
        )  # fmt: skip
        return str(self.pick(options))

    def tame(self, one: Any, other: Any, rounding: float) -> bool:
        finite = numpy.isfinite(other)
        tiny = finite & (numpy.abs(other) < 1e-6) & (numpy.abs(one) < 1e-6)
        apart = ~numpy.isclose(one, other, rounding, 0)
        signs = (other == 0) & (numpy.signbit(one) != numpy.signbit(other))
        return (
            super().tame(one[finite], other[finite], rounding) and not (tiny & apart | signs).any()
        )

    def excused(self) -> bool:
        """... or where the line has steps, and its operands were rounded before."""
        line = self.lines[-1]
        rounded = any(
            f"{name} = t.tensor(" not in "".join(self.lines)
            for name in re.findall(r"[vg]\d+(?:_\d+)?", line.partition("=")[2] or line)
        )
        halves = any("float16" in repr(self.theirs[name].dtype) for name in self.names)
        return super().excused() or (rounded and (halves or bool(re.search(STEPS, line))))

    def compare(self) -> None:
        for field in ("is_grad_enabled", "is_inference_mode_enabled"):
            one, other = getattr(nanotorch, field)(), getattr(self.torch, field)()
            if one != other:
                self.fail(f"{field}: NanoTorch {one}, PyTorch {other}")
        super().compare()


def view_outside_the_graph(x: Any) -> bool:
    """A view whose base requires grad, though nobody recorded the view."""
    try:
        return x._is_view() and x.grad_fn is None and x._base.requires_grad
    except RuntimeError:
        return True


def array_of(x: Any) -> Any:
    """The values as NumPy's, bfloat16 as float32."""
    x = x.detach().cpu()
    return (x.float() if "bfloat16" in repr(x.dtype) else x).numpy()


def replayed(lines: list[str], kind: type[Program], torch: Any) -> Difference | None:
    """The difference that the lines lead to in a program of that kind, if any."""
    program = kind(Random(0), torch)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for line in lines:
                program.run_line(line.split("; ")[0])
                if program.over:
                    return None
    except Difference as difference:
        return difference
    return None


def shrunk(program: Program, torch: Any) -> Difference | None:
    """The difference that a program came to, with every line left out that it does not need."""
    lines, kind = list(program.lines), type(program)
    for line in program.lines[::-1]:
        fewer = [other for other in lines if other is not line]
        difference = replayed(fewer, kind, torch)
        if difference is not None and "not defined" not in str(difference):
            lines = fewer
    return replayed(lines, kind, torch)


def attempt(code: Any, space: dict[str, Any]) -> Exception | None:
    """Runs a line; the error it raised, if any."""
    try:
        exec(code, space)
    except Exception as error:
        return error
    return None
