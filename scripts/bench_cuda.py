"""What bench.py --device cuda times beside the programs of bench_peers.py: steps as CUDA graphs,
CuPy by hand, and what no library can do without on a device.

Times are those of the host's clock over many steps, from one wait for the device to the next; the
host runs ahead of the device in between, as it does in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# The names of the peers on a GPU, and the module that each needs.
PEERS = {
    "nanotorch": "cupy",
    "nanotorch-compile": "cupy",
    "nanotorch-steps": "cupy",
    "torch": "torch",
    "torch-compile": "torch",
    "torch-graph": "torch",
    "cupy": "cupy",
}
FLOORS = {"read": "cupy", "gemms": "cupy"}
STACKED = 2**28  # bytes of batches in one launch of several steps
AT_ONCE = 16


def module() -> Any:
    """CuPy, as NanoTorch imports it."""
    from nanotorch import backend

    return backend.cuda_module()


def steps_at_once(torch: Any, step: Any, case: Any) -> tuple[int, Callable[[Any, Any], Any]]:
    """Several steps of a compiled one in one launch, on batches that lie on the device."""
    batch = case.rows * case.widths[0] * 4
    count = min(AT_ONCE, STACKED // batch)
    if count < 2:
        raise ValueError(f"batches of {batch / 1e6:,.0f} MB are large enough by themselves")
    stacked: list[Any] = []

    def run(x: Any, y: Any) -> Any:
        if not stacked:
            stacked.extend((torch.stack([x] * count), torch.stack([y] * count)))
        return step.steps(*stacked)[-1]

    return count, run


def whole_step_graph(torch: Any, step: Any, model: Any) -> Callable[[Any, Any], Any]:
    """PyTorch's step captured once, as its documentation does, and replayed on that same batch."""
    captured: list[Any] = []

    def capture(x: Any, y: Any) -> None:
        first = [p.detach().clone() for p in model.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(x, y)
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), first, strict=True):
                    parameter.copy_(value)
                    parameter.grad = None
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step(x, y)
        captured.extend((graph, loss))

    def replay(x: Any, y: Any) -> Any:
        if not captured:
            capture(x, y)
        captured[0].replay()
        return captured[1]

    return replay


def captured_products(xp: Any, ws: list[Any], rows: int, kind: Any) -> Callable[[Any], Any]:
    """The products of a step on a batch, as one CUDA graph, so that the host has no part in it."""
    from nanotorch.backend.cuda import cublas

    layers = [xp.zeros((rows, w.shape[1]), kind) for w in ws]
    weight_gradients = [xp.zeros_like(w) for w in ws]
    gradients = [xp.zeros_like(z) for z in layers[:-1]]
    stream = xp.cuda.Stream(non_blocking=True)
    graphs: list[Any] = []

    def products(x: Any) -> None:
        inputs = [x, *layers[:-1]]
        for a, w, z in zip(inputs, ws, layers, strict=True):
            cublas.matmul(xp, a, w, z)
        for i in reversed(range(len(ws))):
            cublas.matmul(xp, inputs[i].T, layers[i], weight_gradients[i])
            if i:
                cublas.matmul(xp, layers[i], ws[i].T, gradients[i - 1])

    def step(x: Any) -> None:
        if not graphs:
            xp.cuda.Device().synchronize()
            with stream:
                products(x)
                stream.synchronize()
                stream.begin_capture()
                products(x)
                graphs.append(stream.end_capture())
        graphs[0].launch(stream)

    return step


def kind_of(precision: str) -> Any:
    """The dtype of arrays whose products are computed in a precision."""
    if precision == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype("float32" if precision == "tf32" else precision)


# --- memory and machine ---------------------------------------------------------------------------


def device_bytes_taken(peer: str) -> Callable[[], int]:
    """A function that says how many bytes of the device are taken since now, by its driver.

    The context and what a library loads into it at its start are there before.
    """
    if peer.partition("-")[0] == "torch":
        import torch

        torch.ones(1, device="cuda").add_(1)
        torch.cuda.synchronize()
        free = lambda: torch.cuda.mem_get_info()[0]
    else:
        xp = module()
        (xp.ones(1, "f") + 1).get()
        free = lambda: xp.cuda.runtime.memGetInfo()[0]
    before = free()
    return lambda: before - free()


def describe_device() -> dict[str, Any]:
    """Name, driver and versions of what computes on the device."""
    import importlib.metadata

    import nanotorch

    xp = module()
    driver = xp.cuda.runtime.driverGetVersion()
    runtime = xp.cuda.runtime.runtimeGetVersion()
    versions = {"CUDA driver": f"{driver // 1000}.{driver % 1000 // 10}"}
    versions["CUDA runtime"] = f"{runtime // 1000}.{runtime % 1000 // 10}"
    for module_name in ("cupy", "torch"):
        for name in (module_name, f"{module_name}-cuda13x", f"{module_name}-cuda12x"):
            try:
                versions[module_name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return {
        "name": nanotorch.cuda.get_device_name(),
        "memory": nanotorch.cuda.get_device_properties().total_memory,
        "versions": versions,
    }
