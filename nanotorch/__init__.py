"""A small neural-network training framework with PyTorch's names, on NumPy and CuPy."""

__version__ = "0.1.0"
