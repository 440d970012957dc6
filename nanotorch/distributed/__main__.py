"""Ranks that all-reduce for a second: mpiexec -n 2 python -m nanotorch.distributed"""

from __future__ import annotations

import time

from nanotorch.creation import tensor, zeros
from nanotorch.distributed.group import all_reduce, get_rank, get_world_size, init_process_group

SECONDS = 1.0


def main() -> None:
    """Prints on rank 0 how many ranks there are and how long a sum of 31 floats takes."""
    init_process_group()
    rank, size = get_rank(), get_world_size()
    values, count, start = zeros(31), 0, time.perf_counter()
    going = True
    while going:
        for _ in range(100):
            values.fill_(rank + 1)
            all_reduce(values)
            count += 1
        if values.tolist() != [size * (size + 1) / 2] * 31:
            raise SystemExit(f"rank {rank}: the sum over {size} ranks is wrong: {values}")
        over = tensor(time.perf_counter() - start > SECONDS)
        all_reduce(over)
        going = not over.item()
    if rank == 0:
        each = (time.perf_counter() - start) / count
        print(f"{size} ranks sum 31 floats in {each * 1e6:.0f} us")


if __name__ == "__main__":
    main()
