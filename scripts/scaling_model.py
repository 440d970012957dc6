"""Prints how long an epoch over 1 TB of click logs would take on several ranks, by a model.

    python scripts/scaling_model.py [--machines 1 2 4 …] [--network 1.1e9] [--disk 5e8]

    epoch = compute + sums + reading
    compute = the larger of rows / ranks * values of a row * seconds a value
              and bytes of the rows / (machines * memory)
    sums    = steps * (alpha * ceil(log2 ranks) + 2 (ranks - 1) / ranks * bytes of gradients / beta)
    reading = bytes of the rows / (machines * disk)

alpha, the seconds of one round of messages, and the seconds a value were measured by
`scripts/bench_ranks.py`; beta, memory and disk are what the hardware gives, here a network of 10
Gbit/s, memory of 50 GB/s and a disk of 500 MB/s. Nothing overlaps. It is a model: it says where the
limit is, not to the second.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import NamedTuple

ROW_VALUES = 39  # of a row of click logs: 13 numbers and 26 categories
BYTES = 4  # of a value, float32
TERABYTE = 1e12


class Machine(NamedTuple):
    """What a rank and what lies between ranks can do."""

    cores: int = 16  # ranks on one machine, a thread each
    value: float = 0.24e-9  # seconds a value of a row: 12.1 ms for 200,000 x 256 on one thread
    local_alpha: float = 26e-6  # seconds a round between ranks on one machine, Python included
    local_beta: float = 2.9e9  # bytes a second between them
    alpha: float = 54e-6  # the same between machines over TCP: 28 us more than shared memory
    beta: float = 1.1e9
    memory: float = 5e10  # bytes a second of one machine, which all its cores share
    disk: float = 5e8


class Epoch(NamedTuple):
    """Seconds of an epoch, by what they are spent on."""

    compute: float
    sums: float
    reading: float

    @property
    def total(self) -> float:
        return sum(self)


def epoch(machines: int, parameters: int, batch: int, machine: Machine) -> Epoch:
    """One pass over the rows on so many machines, a rank on each of their cores."""
    ranks = machines * machine.cores
    rows = TERABYTE / (ROW_VALUES * BYTES)
    compute = rows / ranks * ROW_VALUES * machine.value
    compute = max(compute, TERABYTE / (machines * machine.memory))
    alpha, beta = (
        (machine.alpha, machine.beta) if machines > 1 else (machine.local_alpha, machine.local_beta)
    )
    moved = 2 * (ranks - 1) / ranks * parameters * BYTES
    sums = rows / batch * (alpha * math.ceil(math.log2(max(2, ranks))) + moved / beta)
    return Epoch(compute, sums, TERABYTE / (machines * machine.disk))


def table(machines: Iterable[int], machine: Machine) -> str:
    """The model's epochs as a table in Markdown."""
    kinds = {
        f"{ROW_VALUES} numbers": (ROW_VALUES + 1, 65_536),
        "hashed to 2^20": (2**20, 65_536),
        "hashed, batch 1 M": (2**20, 2**20),
    }
    lines = [
        "| machines | ranks | model | compute | sums | reading | epoch |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in machines:
        for name, (parameters, batch) in kinds.items():
            one = epoch(count, parameters, batch, machine)
            cells = " | ".join(f"{seconds:,.0f} s" for seconds in (*one, one.total))
            lines.append(f"| {count} | {count * machine.cores} | {name} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4, 16])
    parser.add_argument("--network", type=float, default=Machine().beta, help="bytes a second")
    parser.add_argument("--disk", type=float, default=Machine().disk, help="bytes a second")
    parser.add_argument("--cores", type=int, default=Machine().cores, help="of a machine")
    options = parser.parse_args()
    machine = Machine(cores=options.cores, beta=options.network, disk=options.disk)
    print(table(options.machines, machine))


if __name__ == "__main__":
    main()
