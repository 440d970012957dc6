"""What the program that started this process says of its ranks, before any MPI is loaded."""

from __future__ import annotations

import os
from pathlib import Path

# Variables of (number of ranks, this rank), by launcher. An MPI's own come before Slurm's, whose
# allocation may hold a job that mpiexec started.
VARIABLES = {
    "mpiexec": (
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("PMI_SIZE", "PMI_RANK"),  # MPICH, Intel MPI
        ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
        ("PALS_SIZE", "PALS_RANKID"),  # Cray
    ),
    "Slurm": (("SLURM_NTASKS", "SLURM_PROCID"),),
}
INSTALL = 'pip install "nanotorch[mpi]"'


def _whole(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else None


def launched() -> tuple[str, int, int]:
    """The launcher's name, how many ranks it started, and which of them this process is.

    ("", 1, 0) for a process that nothing started as one of several.
    """
    for launcher, pairs in VARIABLES.items():
        for count, number in pairs:
            if (size := _whole(count)) is not None:
                return launcher, size, _whole(number) or 0
    return "", 1, 0


def not_installed(launcher: str, size: int) -> str:
    """Why several processes cannot work together where mpi4py is missing."""
    return (
        f"{launcher} started {size} processes, and mpi4py, which joins them, is missing: {INSTALL}"
    )


def singletons(launcher: str, size: int, library: str) -> str:
    """Why several processes, each of which MPI takes for a world of its own, are refused."""
    words = f"{launcher} started {size} processes, but each is alone in its MPI ({library}): "
    if launcher == "Slurm":
        return words + (
            "start them with `srun --mpi=pmix` or `mpiexec`; SLURM_NTASKS=1 trains with one process"
        )
    return words + "that mpiexec belongs to another MPI than mpi4py's"


def process_state(process: int) -> str:
    """ "stopped" or "gone" for a process of this machine that cannot answer; "" for any other."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone" if Path("/proc/self/stat").exists() else ""
    return {"T": "stopped", "t": "stopped", "Z": "gone"}.get(state, "")


def stopped_ranks() -> list[int]:
    """The ranks of this job on this machine that are stopped; only Linux tells."""
    ranks = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            entries = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):  # of somebody else, or over meanwhile
            continue
        if parent == str(os.getppid()) and process_state(int(folder.name)) == "stopped":
            values = dict(entry.partition(b"=")[::2] for entry in entries)
            for pairs in VARIABLES.values():
                for _, number in pairs:
                    if number.encode() in values:
                        ranks.append(int(values[number.encode()]))
                        break
    return sorted(set(ranks))
