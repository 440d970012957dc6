"""The training steps that bench.py compares: one model, batch and update, written for each peer.

A step is zero_grad, forward, loss, backward and SGD on a stack of linear layers with ReLU between
them, in float32: binary cross-entropy for one output, cross-entropy for more. Each peer is written
as its own documentation would write it for speed. On a GPU (`device="cuda"`, where bench_cuda.py
has what the CPU has not) products may be in TF32 or, by autocast, in float16 or bfloat16.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import bench_cuda
import numpy as np

LEARNING_RATE = 0.01
DRAWN = 2**18  # random rows of a batch

# The names of the peers, and the module that each needs.
PEERS = {
    "nanotorch": "nanotorch",
    "nanotorch-compile": "nanotorch",
    "nanotorch-matched": "nanotorch",
    "torch": "torch",
    "torch-compile": "torch",
    "numpy": "numpy",
    "jax": "jax",
    "jax-ahead": "jax",
    "mygrad": "mygrad",
    "autograd": "autograd",
}
# What no library can do without: one reading of X (a product with one vector), and the products
# of matrices that the step consists of, with nothing between them.
FLOORS = {"read": "numpy", "gemms": "numpy"}


class Case(NamedTuple):
    """A batch of `rows`, the widths of the layers (inputs, hidden layers, outputs), and what
    products compute in: float32, tf32, float16 or bfloat16."""

    rows: int
    widths: tuple[int, ...]
    precision: str = "float32"

    @property
    def binary(self) -> bool:
        return self.widths[-1] == 1

    def __str__(self) -> str:
        suffix = "" if self.precision == "float32" else f":{self.precision}"
        return f"{self.rows}x{'-'.join(map(str, self.widths))}{suffix}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that `str` wrote: "128x784-256-10", "8192x4096-10:bfloat16"."""
        shape, _, precision = text.partition(":")
        rows, _, widths = shape.partition("x")
        sizes = tuple(int(width) for width in widths.split("-"))
        return cls(int(rows), sizes, precision or "float32")


class Program(NamedTuple):
    """A peer's step."""

    step: Callable[[Any, Any], Any]  # of a batch of features and targets
    convert: Callable[[Any], Any]  # a NumPy array as the peer wants it
    rows: Callable[[Any, Any], Any]  # some rows of a converted array, for the batches of an epoch
    loss: Callable[[Any], float]  # waits for what `step` returned
    wait: Callable[[], Any] = lambda: None  # until the device has done all that it was given
    # What is timed instead of `step`: how many steps a call of it is, and the call.
    many: tuple[int, Callable[[Any, Any], Any]] | None = None


def data(case: Case) -> tuple[Any, Any]:
    """Random features (rows, inputs) float32, and targets: (rows, 1) float32 or (rows) int64."""
    generator = np.random.default_rng(0)
    drawn = min(case.rows, DRAWN)  # and repeated from there: memory is what counts, not numbers
    x = generator.standard_normal((drawn, case.widths[0]), dtype=np.float32)
    if case.binary:
        y = (generator.random((drawn, 1)) < 0.5).astype(np.float32)
    else:
        y = generator.integers(0, case.widths[-1], drawn)
    if drawn == case.rows:
        return x, y
    return np.resize(x, (case.rows, *x.shape[1:])), np.resize(y, (case.rows, *y.shape[1:]))


def weights(case: Case) -> list[Any]:
    """The first weights, (inputs, outputs) float32 of each layer; biases start at 0."""
    generator = np.random.default_rng(1)
    return [
        generator.standard_normal((a, b), dtype=np.float32) / np.float32(math.sqrt(a))
        for a, b in itertools.pairwise(case.widths)
    ]


def pick(array: Any, rows: Any) -> Any:
    return array[rows]


def framework(library: str, variant: str, case: Case, device: str) -> Program:
    """NanoTorch or PyTorch: the same lines for both."""
    torch = importlib.import_module(library)
    on_gpu = device == "cuda"
    if case.precision == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
    layers: list[Any] = []
    for w in weights(case):
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
            layer.bias.zero_()
        layers += [layer, torch.nn.ReLU()]
    model = (torch.nn.Sequential(*layers[:-1]) if len(layers) > 2 else layers[0]).to(device)
    criterion = torch.nn.BCEWithLogitsLoss() if case.binary else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def forward(x: Any, y: Any) -> Any:
        return criterion(model(x), y)

    if case.precision in ("float16", "bfloat16"):
        half = getattr(torch, case.precision)

        def forward(x: Any, y: Any) -> Any:
            with torch.autocast(device, dtype=half):
                return criterion(model(x), y)

    if (library, variant) == ("torch", "compile"):
        # PyTorch compiles a forward pass and its backward pass; a whole step breaks into pieces.
        options = {"mode": "reduce-overhead"} if on_gpu else {}
        forward = torch.compile(forward, dynamic=False, **options)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss

    many = None
    if library == "nanotorch" and variant:
        step = torch.compile(step, pure=variant != "matched")
        if variant == "steps":
            many = bench_cuda.steps_at_once(torch, step, case)
    elif variant == "graph":
        step = bench_cuda.whole_step_graph(torch, step, model)

    def convert(array: Any) -> Any:
        return torch.from_numpy(array).to(device)

    def rows_of(array: Any, rows: Any) -> Any:
        return array[convert(rows)]

    wait = torch.cuda.synchronize if on_gpu else lambda: None
    return Program(step, convert, rows_of, lambda loss: float(loss.item()), wait, many)


def written_program(case: Case, xp: Any) -> Program:
    """The step as one would write it by hand for NumPy or CuPy, gradients worked out on paper."""
    ws = [xp.asarray(w) for w in weights(case)]
    bs = [xp.zeros(w.shape[1], np.float32) for w in ws]
    w, b = ws[0], bs[0]
    many_layers = len(ws) > 1

    def softmax_gradient(z: Any, y: Any) -> tuple[Any, Any]:
        rows = len(y)
        places = (xp.arange(rows), y)
        z -= z.max(1, keepdims=True)
        e = xp.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (xp.log(total[:, 0]) - z[places]).mean()
        e /= total
        e[places] -= 1
        e /= rows
        return loss, e

    def binary_gradient(z: Any, y: Any) -> tuple[Any, Any]:
        e = xp.exp(-xp.abs(z))
        loss = (xp.maximum(z, 0) - z * y + xp.log1p(e)).mean()
        return loss, (xp.where(z >= 0, 1, e) / (1 + e) - y) / len(y)

    gradient = binary_gradient if case.binary else softmax_gradient

    def linear(x: Any, y: Any) -> Any:
        loss, g = gradient(x @ w + b, y)
        w.__isub__(LEARNING_RATE * (x.T @ g))
        b.__isub__(LEARNING_RATE * g.sum(0))
        return loss

    def layered(x: Any, y: Any) -> Any:
        inputs = [x]
        for w, b in zip(ws[:-1], bs[:-1]):
            z = inputs[-1] @ w
            z += b
            inputs.append(xp.maximum(z, 0, out=z))
        loss, g = gradient(inputs[-1] @ ws[-1] + bs[-1], y)
        for w, b, x in zip(reversed(ws), reversed(bs), reversed(inputs)):
            below = g @ w.T if x is not inputs[0] else None
            w -= LEARNING_RATE * (x.T @ g)
            b -= LEARNING_RATE * g.sum(0)
            if below is not None:
                below *= x > 0
                g = below
        return loss

    wait = xp.cuda.Device().synchronize if xp is not np else lambda: None
    return Program(layered if many_layers else linear, xp.asarray, pick, float, wait)


def jax_program(case: Case, waits: bool) -> Program:
    """One jitted function from parameters and batch to new parameters and loss.

    JAX computes while Python goes on: a step is done when loss and parameters are there.
    """
    import jax
    import jax.numpy as jnp

    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1], np.float32)) for w in weights(case)]

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        *hidden, (w, b) = parameters
        for v, c in hidden:
            x = jax.nn.relu(x @ v + c)
        z = x @ w + b
        if case.binary:
            return (jnp.logaddexp(0, z) - z * y).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    def update(parameters: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients), loss

    compiled = jax.jit(update, donate_argnums=0)

    def step(x: Any, y: Any) -> Any:
        nonlocal parameters
        parameters, loss = compiled(parameters, x, y)
        if waits:
            jax.block_until_ready((parameters, loss))
        return loss

    def rows_of(array: Any, rows: Any) -> Any:
        return np.asarray(array)[rows]

    def finish(loss: Any) -> float:
        jax.block_until_ready(parameters)
        return float(loss)

    return Program(step, jnp.asarray, rows_of, finish)


def mygrad_program(case: Case) -> Program:
    import mygrad
    from mygrad.nnet.activations import relu
    from mygrad.nnet.losses import softmax_crossentropy

    mygrad.turn_memory_guarding_off()  # its documentation's advice for speed
    parameters = [
        (mygrad.tensor(w), mygrad.tensor(np.zeros(w.shape[1], np.float32))) for w in weights(case)
    ]

    def step(x: Any, y: Any) -> Any:
        for w, b in parameters[:-1]:
            x = relu(mygrad.matmul(x, w) + b)
        w, b = parameters[-1]
        z = mygrad.matmul(x, w) + b
        if case.binary:
            loss = (mygrad.logaddexp(np.float32(0), z) - z * y).mean()
        else:
            loss = softmax_crossentropy(z, y)
        loss.backward()
        for pair in parameters:
            for parameter in pair:
                parameter.data -= LEARNING_RATE * parameter.grad
                parameter.null_grad()
        return loss

    return Program(step, np.asarray, pick, lambda loss: float(loss.data))


def autograd_program(case: Case) -> Program:
    import autograd.numpy as anp
    from autograd import value_and_grad

    parameters = [[w, np.zeros(w.shape[1], np.float32)] for w in weights(case)]
    zero = np.float32(0)
    classes = np.eye(case.widths[-1], dtype=np.float32)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        *hidden, (w, b) = parameters
        for v, c in hidden:
            x = anp.maximum(anp.dot(x, v) + c, zero)
        z = anp.dot(x, w) + b
        if case.binary:
            return anp.mean(anp.logaddexp(zero, z) - z * y)
        top = anp.max(z, axis=1, keepdims=True)
        total = anp.log(anp.sum(anp.exp(z - top), axis=1, keepdims=True)) + top
        # A product with one-hot rows: the derivative of indexing would be slower here.
        return anp.mean(anp.sum((total - z) * classes[y], axis=1))

    derive = value_and_grad(loss_of)

    def step(x: Any, y: Any) -> Any:
        loss, gradients = derive(parameters, x, y)
        for pair, slopes in zip(parameters, gradients):
            for parameter, slope in zip(pair, slopes):
                parameter -= LEARNING_RATE * slope
        return loss

    return Program(step, np.asarray, pick, float)


def read_program(case: Case) -> Program:
    """X @ v, for one vector."""
    vector = np.ones(case.widths[0], np.float32)
    out = np.empty(case.rows, np.float32)
    return Program(lambda x, y: np.matmul(x, vector, out=out), np.asarray, pick, lambda y: math.nan)


def gemms_program(case: Case) -> Program:
    """The products of a step: forward, the gradients of the weights, and those of hidden layers."""
    ws = weights(case)
    layers = [np.empty((case.rows, w.shape[1]), np.float32) for w in ws]
    weight_gradients = [np.empty_like(w) for w in ws]
    gradients = [np.empty_like(z) for z in layers[:-1]]

    def step(x: Any, y: Any) -> None:
        inputs = [x, *layers[:-1]]
        for a, w, z in zip(inputs, ws, layers):
            np.matmul(a, w, out=z)
        for i in reversed(range(len(ws))):
            np.matmul(inputs[i].T, layers[i], out=weight_gradients[i])
            if i:
                np.matmul(layers[i], ws[i].T, out=gradients[i - 1])

    return Program(step, np.asarray, pick, lambda y: math.nan)


def read_on_gpu_program(case: Case) -> Program:
    """One reading of X: half of what it takes to copy it, which reads and writes as much."""
    xp = bench_cuda.module()
    places: list[Any] = []

    def copy(x: Any, y: Any) -> None:
        if not places:
            places.append(xp.empty_like(x))
        xp.copyto(places[0], x)

    wait = xp.cuda.Device().synchronize
    return Program(copy, xp.asarray, pick, lambda y: math.nan, wait, (2, copy))


def gemms_on_gpu_program(case: Case) -> Program:
    """The products of a step in the precision of the case."""
    xp = bench_cuda.module()
    importlib.import_module("nanotorch").backends.cuda.matmul.allow_tf32 = case.precision == "tf32"
    kind = bench_cuda.kind_of(case.precision)
    ws = [xp.asarray(w).astype(kind) for w in weights(case)]
    products = bench_cuda.captured_products(xp, ws, case.rows, kind)

    def convert(array: Any) -> Any:
        placed = xp.asarray(array)
        return placed.astype(kind) if placed.dtype == np.float32 else placed

    wait = xp.cuda.Device().synchronize
    return Program(lambda x, y: products(x), convert, pick, lambda y: math.nan, wait)


def cupy_program(case: Case) -> Program:
    if case.precision != "float32":
        raise ValueError(f"CuPy by hand is written in float32, not in {case.precision}")
    return written_program(case, bench_cuda.module())


def build(peer: str, case: Case, device: str = "cpu") -> Program:
    """The step of a peer, its model at the first weights."""
    name, _, variant = peer.partition("-")
    if name in ("nanotorch", "torch"):
        return framework(name, variant, case, device)
    if name == "jax":
        return jax_program(case, waits=variant != "ahead")
    if name == "numpy":
        return written_program(case, np)
    written = {
        ("mygrad", "cpu"): mygrad_program,
        ("autograd", "cpu"): autograd_program,
        ("read", "cpu"): read_program,
        ("gemms", "cpu"): gemms_program,
        ("cupy", "cuda"): cupy_program,
        ("read", "cuda"): read_on_gpu_program,
        ("gemms", "cuda"): gemms_on_gpu_program,
    }
    return written[name, device](case)
