"""Where PyTorch's users look for data loading: `nanotorch.utils.data`."""

from nanotorch.utils import data as data
