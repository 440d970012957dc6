"""Where PyTorch's users look for data loading (`utils.data`) and for `utils.checkpoint`."""

from nanotorch.utils import checkpoint as checkpoint, data as data
