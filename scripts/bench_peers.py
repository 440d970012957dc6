"""The training steps that bench.py compares: one model, batch and update, written for each peer.

A step is zero_grad, forward, loss, backward and SGD on a stack of linear layers with ReLU between
them, in float32: binary cross-entropy for one output, cross-entropy for more. Each peer is written
as its own documentation would write it for speed.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE = 0.01

# The names of the peers, and the module that each needs.
PEERS = {
    "nanotorch": "nanotorch",
    "nanotorch-compile": "nanotorch",
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
    """A batch of `rows`, and the widths of the layers: inputs, hidden layers, outputs."""

    rows: int
    widths: tuple[int, ...]

    @property
    def binary(self) -> bool:
        return self.widths[-1] == 1

    def __str__(self) -> str:
        return f"{self.rows}x{'-'.join(map(str, self.widths))}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case that `str` wrote: "128x784-256-10"."""
        rows, _, widths = text.partition("x")
        return cls(int(rows), tuple(int(width) for width in widths.split("-")))


class Program(NamedTuple):
    """A peer's step."""

    step: Callable[[Any, Any], Any]  # of a batch of features and targets
    convert: Callable[[Any], Any]  # a NumPy array as the peer wants it
    rows: Callable[[Any, Any], Any]  # some rows of a converted array, for the batches of an epoch
    loss: Callable[[Any], float]  # waits for what `step` returned


def data(case: Case) -> tuple[Any, Any]:
    """Random features (rows, inputs) float32, and targets: (rows, 1) float32 or (rows) int64."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((case.rows, case.widths[0]), dtype=np.float32)
    if case.binary:
        return x, (generator.random((case.rows, 1)) < 0.5).astype(np.float32)
    return x, generator.integers(0, case.widths[-1], case.rows)


def weights(case: Case) -> list[Any]:
    """The first weights, (inputs, outputs) float32 of each layer; biases start at 0."""
    generator = np.random.default_rng(1)
    return [
        generator.standard_normal((a, b), dtype=np.float32) / np.float32(math.sqrt(a))
        for a, b in itertools.pairwise(case.widths)
    ]


def pick(array: Any, rows: Any) -> Any:
    return array[rows]


def framework(library: str, compiled: bool, case: Case) -> Program:
    """NanoTorch or PyTorch: the same lines for both."""
    torch = importlib.import_module(library)
    layers: list[Any] = []
    for w in weights(case):
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.T)))
            layer.bias.zero_()
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]) if len(layers) > 2 else layers[0]
    criterion = torch.nn.BCEWithLogitsLoss() if case.binary else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

    def forward(x: Any, y: Any) -> Any:
        return criterion(model(x), y)

    if compiled and library == "torch":
        # PyTorch compiles a forward pass and its backward pass; a whole step breaks into pieces.
        forward = torch.compile(forward, dynamic=False)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss

    if compiled and library == "nanotorch":
        step = torch.compile(step)

    def rows_of(array: Any, rows: Any) -> Any:
        return array[torch.from_numpy(rows)]

    return Program(step, torch.from_numpy, rows_of, lambda loss: float(loss.item()))


def numpy_program(case: Case) -> Program:
    """The step as one would write it by hand, gradients worked out on paper."""
    ws = weights(case)
    bs = [np.zeros(w.shape[1], np.float32) for w in ws]
    w, b = ws[0], bs[0]
    many_layers = len(ws) > 1

    def softmax_gradient(z: Any, y: Any) -> tuple[Any, Any]:
        rows = len(y)
        places = (np.arange(rows), y)
        z -= z.max(1, keepdims=True)
        e = np.exp(z)
        total = e.sum(1, keepdims=True)
        loss = (np.log(total[:, 0]) - z[places]).mean()
        e /= total
        e[places] -= 1
        e /= rows
        return loss, e

    def binary_gradient(z: Any, y: Any) -> tuple[Any, Any]:
        e = np.exp(-np.abs(z))
        loss = (np.maximum(z, 0) - z * y + np.log1p(e)).mean()
        return loss, (np.where(z >= 0, 1, e) / (1 + e) - y) / len(y)

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
            inputs.append(np.maximum(z, 0, out=z))
        loss, g = gradient(inputs[-1] @ ws[-1] + bs[-1], y)
        for w, b, x in zip(reversed(ws), reversed(bs), reversed(inputs)):
            below = g @ w.T if x is not inputs[0] else None
            w -= LEARNING_RATE * (x.T @ g)
            b -= LEARNING_RATE * g.sum(0)
            if below is not None:
                below *= x > 0
                g = below
        return loss

    return Program(layered if many_layers else linear, np.asarray, pick, float)


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


def build(peer: str, case: Case) -> Program:
    """The step of a peer, its model at the first weights."""
    name, _, variant = peer.partition("-")
    if name in ("nanotorch", "torch"):
        return framework(name, bool(variant), case)
    if name == "jax":
        return jax_program(case, waits=variant != "ahead")
    written = {
        "numpy": numpy_program,
        "mygrad": mygrad_program,
        "autograd": autograd_program,
        "read": read_program,
        "gemms": gemms_program,
    }
    return written[name](case)
