"""`save` and `load`: PyTorch's files, read without running anything that they ask for.

A file is a zip archive (`archive`) of a pickle and of the memory of tensors, written as PyTorch
does (`pickler`). The pickle is read by an interpreter of our own (`unpickler`), which can make
tensors and plain data and nothing else (`tensors`).

Source: https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand

if TYPE_CHECKING:
    from nanotorch.serialization.files import (
        add_safe_globals as add_safe_globals,
        clear_safe_globals as clear_safe_globals,
        get_safe_globals as get_safe_globals,
        load as load,
        safe_globals as safe_globals,
        save as save,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
