"""What runs on a CUDA device beside CuPy's own functions: kernels of ours, in CUDA C."""
