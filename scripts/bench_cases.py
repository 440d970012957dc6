"""The jobs that bench.py times beside plain steps: each written once for NanoTorch and PyTorch, and
where it pays for JAX and for NumPy by hand.

A job is a call without arguments that returns a number, on which all peers must agree. All start
from the same weights, which NumPy draws. Training jobs are whole steps.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import bench_layers
import numpy as np

PEERS = (
    *("nanotorch", "nanotorch-matched", "nanotorch-compile"),
    *("torch", "torch-compile", "jax", "numpy"),
)
# The names of layers that are jobs, too: networks that others have been tuned for.
NETWORKS = {"LSTM": "LSTM 64-128", "LeNet": "LeNet", "GPT": "GPT of 4 x 64"}
BY_HAND = ("elementwise-1e6", "pos_weight", "predict-1", "evaluate-1e6")
RATE = 0.01
Job = Callable[[], float]


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def layers(*widths: int) -> list[Any]:
    """The weights (outputs, inputs) of linear layers; biases start at 0."""
    return [
        drawn(b, a, seed=n) / np.float32(np.sqrt(a))
        for n, (a, b) in enumerate(itertools.pairwise(widths))
    ]


# --- NanoTorch and PyTorch: the same lines --------------------------------------------------------


def stack(torch: Any, weights: list[Any], *between: Callable[[int], Any]) -> Any:
    """Linear layers with these weights, and modules between them that are made of a width."""
    modules: list[Any] = []
    for w in weights:
        layer = torch.nn.Linear(w.shape[1], w.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w))
            layer.bias.zero_()
        modules += [layer, *(make(w.shape[0]) for make in between)]
    return torch.nn.Sequential(*modules[: len(modules) - len(between)])


def classifier(torch: Any, *between: Callable[[int], Any]) -> tuple[Any, Any]:
    """128 rows through 256-256-256-10, with SGD."""
    model = stack(torch, layers(256, 256, 256, 10), *between)
    x, y = torch.from_numpy(drawn(128, 256)), torch.from_numpy(np.arange(128) % 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return lambda: torch.nn.functional.cross_entropy(model(x), y), optimizer


def adamw(torch: Any) -> tuple[Any, Any]:
    """50 layers of 16 x 16: 100 tensors."""
    model = stack(torch, layers(*[16] * 51), lambda width: torch.nn.Tanh())
    x = torch.from_numpy(drawn(32, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return lambda: model(x).square().mean(), optimizer


def embedding(torch: Any) -> tuple[Any, Any]:
    """The means of 8 of 10,000 words of width 64, and 10,000 classes, for 64 rows."""
    words = torch.nn.Embedding(10_000, 64)
    with torch.no_grad():
        words.weight.copy_(torch.from_numpy(drawn(10_000, 64)))
    head = stack(torch, layers(64, 10_000))
    places = np.random.default_rng(0).integers(0, 10_000, (64, 8))
    x, y = torch.from_numpy(places), torch.from_numpy(places[:, 0].copy())
    optimizer = torch.optim.SGD([*words.parameters(), *head.parameters()], lr=RATE)
    return lambda: torch.nn.functional.cross_entropy(head(words(x).mean(1)), y), optimizer


def elementwise(torch: Any) -> tuple[Any, Any]:
    """mean((tanh(x * w) + x)^2) over a million elements."""
    x = torch.from_numpy(drawn(1_000_000))
    w = torch.nn.Parameter(torch.from_numpy(drawn(1_000_000, seed=1)))
    optimizer = torch.optim.SGD([w], lr=RATE)
    return lambda: (torch.tanh(x * w) + x).square().mean(), optimizer


def weighted(torch: Any) -> tuple[Any, Any]:
    """Logistic regression on 8192 x 64 with rare positives."""
    model = stack(torch, layers(64, 1))
    x, target = drawn(8192, 64), (np.arange(8192) % 10 == 0).astype("f")[:, None]
    x, y = torch.from_numpy(x), torch.from_numpy(target)
    criterion = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([9.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return lambda: criterion(model(x), y), optimizer


def tiny(torch: Any) -> tuple[Any, Any]:
    """100 operations on 8 elements, and back."""
    w = torch.nn.Parameter(torch.from_numpy(drawn(8)))
    optimizer = torch.optim.SGD([w], lr=RATE)

    def loss() -> Any:
        y = w
        for _ in range(50):
            y = y * 0.99 + 0.01
        return y.sum()

    return loss, optimizer


def predict(torch: Any) -> tuple[Any, Any]:
    """One row through 30-64-1."""
    model = stack(torch, layers(30, 64, 1), lambda width: torch.nn.ReLU())
    x = torch.from_numpy(drawn(1, 30))
    return lambda: torch.sigmoid(model(x)), None


def evaluate(torch: Any) -> tuple[Any, Any]:
    """Loss and accuracy of logistic regression over 1,000,000 x 30."""
    model = stack(torch, layers(30, 1))
    x = torch.from_numpy(drawn(1_000_000, 30))
    y = torch.from_numpy((np.arange(1_000_000) % 2).astype("f")[:, None])

    def scores() -> Any:
        logits = model(x)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
        return loss + ((logits > 0) == (y > 0.5)).sum() / 1_000_000

    return scores, None


JOBS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "AdamW-100": adamw,
    "LN-GELU": lambda t: classifier(t, t.nn.LayerNorm, lambda width: t.nn.GELU()),
    "BN": lambda t: classifier(t, t.nn.BatchNorm1d, lambda width: t.nn.ReLU()),
    "embedding-10k": embedding,
    "elementwise-1e6": elementwise,
    "pos_weight": weighted,
    "tiny-100": tiny,
    "predict-1": predict,
    "evaluate-1e6": evaluate,
}
NAMES = (*JOBS, *NETWORKS)


def framework_job(library: str, variant: str, name: str) -> Job:
    torch = importlib.import_module(library)
    if name in NETWORKS:
        peer = f"{library}-compile" if variant else library
        return bench_layers.build(peer, NETWORKS[name], True)
    loss_of, optimizer = JOBS[name](torch)
    if (library, variant) == ("torch", "compile"):
        loss_of = torch.compile(loss_of, dynamic=False)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss

    def without_gradients() -> Any:
        with torch.no_grad():
            return loss_of()

    call = without_gradients if optimizer is None else step
    if library == "nanotorch" and variant:
        call = torch.compile(call, pure=variant == "compile")
    return lambda: float(call().item())


# --- JAX ------------------------------------------------------------------------------------------


def jax_job(name: str) -> Job:
    """One jitted function with donated parameters, as its documentation advises."""
    import jax
    import jax.numpy as jnp

    def linear(p: Any, x: Any) -> Any:
        return x @ p[0].T + p[1]

    def made(*widths: int) -> Any:
        return [(jnp.asarray(w), jnp.zeros(w.shape[0])) for w in layers(*widths)]

    def cross_entropy(z: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    def normal(x: Any, axis: int, p: Any) -> Any:
        centred = x - x.mean(axis, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(axis, keepdims=True) + 1e-5) * p[0] + p[1]

    def bce(z: Any, y: Any, weight: float = 1.0) -> Any:
        return (weight * y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)).mean()

    x128, y128 = jnp.asarray(drawn(128, 256)), jnp.arange(128) % 10

    def network(axis: int, activation: Any) -> tuple[Any, Any]:
        scales = [(jnp.ones(256), jnp.zeros(256)) for _ in range(2)]

        def loss(p: Any) -> Any:
            x = x128
            for layer, scale in zip(p[0][:-1], p[1]):
                x = activation(normal(linear(layer, x), axis, scale))
            return cross_entropy(linear(p[0][-1], x), y128)

        return (made(256, 256, 256, 10), scales), loss

    if name == "AdamW-100":
        x = jnp.asarray(drawn(32, 16))

        def deep(p: Any) -> Any:
            h = x
            for layer in p[:-1]:
                h = jnp.tanh(linear(layer, h))
            return (linear(p[-1], h) ** 2).mean()

        parameters, loss = made(*[16] * 51), deep
    elif name in ("LN-GELU", "BN"):
        parameters, loss = (
            network(1, lambda h: jax.nn.gelu(h, approximate=False))
            if name == "LN-GELU"
            else network(0, jax.nn.relu)
        )
    elif name == "embedding-10k":
        places = jnp.asarray(np.random.default_rng(0).integers(0, 10_000, (64, 8)))
        parameters = (jnp.asarray(drawn(10_000, 64)), made(64, 10_000)[0])

        def loss(p: Any) -> Any:
            return cross_entropy(linear(p[1], p[0][places].mean(1)), places[:, 0])

    elif name == "elementwise-1e6":
        x, parameters = jnp.asarray(drawn(1_000_000)), jnp.asarray(drawn(1_000_000, seed=1))

        def loss(w: Any) -> Any:
            return ((jnp.tanh(x * w) + x) ** 2).mean()

    elif name == "pos_weight":
        x, y = jnp.asarray(drawn(8192, 64)), (jnp.arange(8192) % 10 == 0)[:, None] * 1.0
        parameters = made(64, 1)[0]

        def loss(p: Any) -> Any:
            return bce(linear(p, x), y, 9.0)

    elif name == "tiny-100":
        parameters = jnp.asarray(drawn(8))

        def loss(y: Any) -> Any:
            for _ in range(50):
                y = y * 0.99 + 0.01
            return y.sum()

    elif name == "predict-1":
        p, x = made(30, 64, 1), jnp.asarray(drawn(1, 30))
        run = jax.jit(lambda p, x: jax.nn.sigmoid(linear(p[1], jax.nn.relu(linear(p[0], x)))))
        return lambda: float(run(p, x)[0, 0])
    else:  # evaluate-1e6
        p, x = made(30, 1)[0], jnp.asarray(drawn(1_000_000, 30))
        y = (jnp.arange(1_000_000) % 2)[:, None] * 1.0

        def scores(p: Any, x: Any, y: Any) -> Any:
            z = linear(p, x)
            return bce(z, y) + ((z > 0) == (y > 0.5)).mean()

        run = jax.jit(scores)
        return lambda: float(run(p, x, y))

    def sgd(parameters: Any, state: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(parameters)
        return jax.tree.map(lambda p, g: p - RATE * g, parameters, slopes), state, value

    def decoupled(parameters: Any, state: Any) -> Any:
        value, slopes = jax.value_and_grad(loss)(parameters)
        first, second, n = state
        n = n + 1
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)

        def moved(p: Any, m: Any, v: Any) -> Any:
            size = jnp.sqrt(v / (1 - 0.999**n)) + 1e-8
            return p * (1 - 1e-5) - 1e-3 * (m / (1 - 0.9**n)) / size

        return jax.tree.map(moved, parameters, first, second), (first, second, n), value

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = (zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros(()))
    adamw_is_asked = name == "AdamW-100"
    update = jax.jit(decoupled if adamw_is_asked else sgd, donate_argnums=(0, 1))
    held = [parameters, state if adamw_is_asked else ()]

    def step() -> float:
        held[0], held[1], value = update(*held)
        jax.block_until_ready(held)
        return float(value)

    return step


# --- NumPy by hand --------------------------------------------------------------------------------


def numpy_job(name: str) -> Job:
    """The formula, with its gradient worked out on paper."""
    if name == "elementwise-1e6":
        x, w = drawn(1_000_000), drawn(1_000_000, seed=1)

        def step() -> float:
            t = np.tanh(x * w)
            z = t + x
            loss = np.square(z).mean()
            w.__isub__(RATE * (z * (2 / len(x)) * (1 - t * t) * x))
            return float(loss)

        return step
    if name == "pos_weight":
        x, y = drawn(8192, 64), (np.arange(8192) % 10 == 0).astype("f")[:, None]
        w, b = layers(64, 1)[0].T.copy(), np.zeros(1, "f")
        weight = 1 + 8 * y

        def weighted_step() -> float:
            z = x @ w + b
            e = np.exp(-np.abs(z))
            loss = ((np.maximum(-z, 0) + np.log1p(e)) * weight + (1 - y) * z).mean()
            g = (np.where(z >= 0, 1, e) / (1 + e) * weight - 9 * y) / len(y)
            w.__isub__(RATE * (x.T @ g))
            b.__isub__(RATE * g.sum(0))
            return float(loss)

        return weighted_step
    if name == "predict-1":
        (v, w), x = layers(30, 64, 1), drawn(1, 30)
        v, w = v.T.copy(), w.T.copy()
        return lambda: float((1 / (1 + np.exp(-(np.maximum(x @ v, 0) @ w))))[0, 0])
    w, x = layers(30, 1)[0].T.copy(), drawn(1_000_000, 30)
    y = (np.arange(1_000_000) % 2).astype("f")[:, None]

    def scores() -> float:
        z = x @ w
        loss = (np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean()
        return float(loss + ((z > 0) == (y > 0.5)).mean())

    return scores


def peers_of(name: str) -> tuple[str, ...]:
    """The peers for which a job is written."""
    if name in NETWORKS:
        return "nanotorch", "nanotorch-matched", "torch"
    return PEERS if name in BY_HAND else PEERS[:-1]


def build(peer: str, name: str) -> Job:
    """The call of a job, for one of its peers."""
    library, _, variant = peer.partition("-")
    if library == "jax":
        return jax_job(name)
    return numpy_job(name) if library == "numpy" else framework_job(library, variant, name)
