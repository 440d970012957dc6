"""SummaryWriter: scalars, histograms, images and text for TensorBoard, by the package tensorboardX.

Source: https://docs.pytorch.org/docs/stable/tensorboard.html
"""

from __future__ import annotations

import functools
from typing import Any

from nanotorch.tensor import Tensor


class SummaryWriter:
    """Writes event files to `log_dir`, by default runs/DATE_HOST; a context manager closes it.

    It has the methods of `tensorboardX.SummaryWriter` (add_scalar, add_histogram, add_image,
    add_text, add_hparams …), which take tensors as well. RuntimeError where tensorboardX is
    missing; `add_graph` is not there: `nanotorch.viz` draws graphs.
    """

    def __init__(self, log_dir: str | None = None, comment: str = "", **options: Any) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise RuntimeError(
                f"SummaryWriter needs tensorboardX, which could not be imported ({error}); install "
                'it with `pip install "nanotorch[tensorboard]"`'
            ) from None
        self._writer = tensorboardX.SummaryWriter(log_dir, comment, **options)
        self.log_dir = str(self._writer.logdir)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "add_graph":
            raise AttributeError(
                "SummaryWriter has no add_graph; draw the graph with nanotorch.viz"
                if name == "add_graph"
                else f"SummaryWriter has no attribute {name!r}"
            )
        value = getattr(self._writer, name)
        if not callable(value):
            return value

        @functools.wraps(value)
        def with_arrays(*args: Any, **options: Any) -> Any:
            return value(*map(array_of, args), **{k: array_of(v) for k, v in options.items()})

        return with_arrays

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()


def array_of(value: Any) -> Any:
    """NumPy arrays for the tensors in a value, a list or a dictionary of values."""
    if isinstance(value, Tensor):
        return value.numpy(force=True)
    if isinstance(value, list | tuple):
        return type(value)(array_of(item) for item in value)
    if isinstance(value, dict):
        return {key: array_of(item) for key, item in value.items()}
    return value
