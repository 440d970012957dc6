"""The table of rooms: of every file of the package, whether it is core, stock, or which ring.

- The core is what one must read to understand the framework; docs/core.md walks through it.
- The stock is what the core stands on and what stands beside it: arrays and devices, the other ops,
  creation, random numbers, printing. It stands on no ring.
- A ring is a feature around the core. Its files can be deleted: `import nanotorch` and the tests of
  the core, and of all rings that do not stand on it, work without them.

`scripts/lines.py` counts by this table, and `tests/test_layering.py` keeps the rooms apart by it.
"""

from __future__ import annotations

CORE = (
    "node.py",
    "primitive.py",
    "ops/arithmetic.py",
    "ops/sums.py",
    "ops/products.py",
    "ops/binary_losses.py",
    "autograd/rings.py",
    "autograd/grad_mode.py",
    "autograd/errors.py",
    "autograd/engine.py",
    "autograd/inplace.py",
    "autograd/walk.py",
    "autograd/backward.py",
    "autograd/graph.py",
    "operators.py",
    "tensor.py",
    "nn/parameter.py",
    "nn/module.py",
    "nn/linear.py",
    "optim/optimizer.py",
    "optim/sgd.py",
)

# The longest prefix of a file's path decides; a name that ends in / is a folder.
STOCK = (
    "__init__.py",
    "ops/",
    "backend/",
    "autograd/__init__.py",
    "autograd/parts.py",
    "creation.py",
    "linalg.py",
    "special.py",
    "printing.py",
    "random.py",
    "sampling.py",
    "outside.py",
    "working_directory.py",
    "nn/__init__.py",
    "nn/init.py",
    "nn/functional.py",
    "nn/margins.py",
    "nn/backward_hooks.py",
    "nn/module_hooks.py",
    "nn/printing.py",
    "nn/state_dict.py",
    "nn/utils/",
    "optim/__init__.py",
    "optim/groups.py",
    "optim/host_step.py",
    "optim/single.py",
    "utils/__init__.py",
    "compile/__init__.py",  # the door: one function, which loads the ring when it is called
)

RINGS = {
    "amp": ("amp/", "cuda/amp.py"),
    "cuda": ("cuda/", "backend/cuda/", "backends.py", "optim/device_step.py"),
    "forward mode": ("autograd/forward_ad.py",),
    "user functions": ("autograd/function.py", "autograd/context.py"),
    "derivatives": ("autograd/functional.py", "autograd/gradcheck.py"),
    "compile": ("compile/",),
    "func": ("func/",),
    "sym": ("sym/",),
    "viz": ("viz/",),
    "layers": ("nn/", "nn/utils/parametrize.py", "nn/utils/parametrizations.py"),
    "distributions": ("distributions/",),
    "averaging": ("averaging.py",),
    "optimizers": ("optim/",),
    "sparse gradients": (
        "backend/row_sparse.py",
        "ops/sparse.py",
        "optim/sparse_step.py",
        "optim/sparse_adam.py",
    ),
    "spellings": ("spellings.py", "functional.py", "testing.py", "utils/tensorboard.py"),
    "data loading": ("utils/data/",),
    "saving": ("serialization/",),
    "recomputation": ("utils/checkpoint.py",),
    "interop": ("interop/",),
    "distributed": ("distributed/",),
    "training": ("training/", "__main__.py"),
    "datasets": ("datasets/",),
}

# The rings that a ring stands on, beside core and stock.
STANDS_ON = {
    "amp": ("cuda",),
    "compile": ("cuda",),
    "user functions": ("forward mode",),
    "derivatives": ("forward mode",),
    "func": ("forward mode", "derivatives"),
    "recomputation": ("amp",),
    "averaging": ("layers", "optimizers"),
    "sparse gradients": ("optimizers",),
    "viz": ("compile", "sym"),
    "interop": ("compile", "layers", "optimizers"),
    "training": (
        "amp",
        "cuda",
        "compile",
        "data loading",
        "saving",
        "layers",
        "optimizers",
        "sparse gradients",
        "datasets",
        "interop",
        "viz",
        "distributed",
    ),
}

_PLACES = {
    **dict.fromkeys(CORE, "core"),
    **dict.fromkeys(STOCK, "stock"),
    **{path: ring for ring, paths in RINGS.items() for path in paths},
}


def room_of(path: str) -> str:
    """ "core", "stock" or the ring of a file, whose path is inside the package; "" for none."""
    prefixes = [p for p in _PLACES if path == p or (p.endswith("/") and path.startswith(p))]
    return _PLACES[max(prefixes, key=len)] if prefixes else ""
