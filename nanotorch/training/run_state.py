"""The state of a run as a checkpoint, and back."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.training.checkpoint import (
    Checkpoint,
    join_arrays,
    save_checkpoint,
    serial,
    split_arrays,
)
from nanotorch.training.errors import RunFailure, reading
from nanotorch.training.run import Position, Run


def save_state(run: Run) -> None:
    """Write a checkpoint from which the run goes on to the same bytes; rank 0 does."""
    run.read_losses()
    weights = run.weights()
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise RunFailure(run.not_finite(math.nan))
    if not run.ranks.leads:
        return
    run.log.sync()
    gradients = {
        name: p.grad
        for name, p in run.model.named_parameters()
        if p.grad is not None and run.at.batch % run.config.training.accumulate
    }
    training: dict[str, np.ndarray[Any, Any]] = {}
    tree = {
        "optimizer": run.optimizer.state_dict(),
        "gradients": gradients,
        "generator": nt.get_rng_state(),
        "device_generator": _device_generator(run),
        "scaler": None if run.step.scaler is None else run.step.scaler.state_dict(),
        "callbacks": {c.name: c.state for c in run.callbacks if hasattr(c, "state")},
    }
    values = {
        "position": asdict(run.at),
        "schedule": run.rates.state,
        "log_bytes": run.log.size,
        "tree": split_arrays(tree, training, "training"),
    }
    arrays = {"model": weights, "training": training}
    if run.best is not None:
        arrays["best"] = run.best
    checkpoint = Checkpoint(run.folder, values, arrays)
    place = save_checkpoint(run.folder, checkpoint, run.at.step, run.config.checkpoint.keep)
    if serial(place) == 1:
        run.events.record("checkpoint", step=run.at.step)


def restore_state(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run back to where a checkpoint was written; nothing is written, the log included."""
    with reading(f"--resume: {checkpoint.folder}", "the state of this run"):
        _restore(run, checkpoint)


def _restore(run: Run, checkpoint: Checkpoint) -> None:
    values = checkpoint.values
    run.at = Position(**values["position"])
    run.at.ended = None  # there may be more epochs, time or patience now
    _release_frozen_until(run, run.at)
    run.set_weights(checkpoint.arrays["model"])
    run.best = checkpoint.arrays.get("best")
    tree = join_arrays(values["tree"], checkpoint.arrays["training"], nt.tensor)
    run.optimizer.load_state_dict(tree["optimizer"])
    for name, parameter in run.model.named_parameters():
        if name in tree["gradients"]:
            parameter.grad = tree["gradients"][name].to(run.device)
    nt.set_rng_state(tree["generator"])
    drawn_there = tree.get("device_generator")
    if drawn_there is not None and (now := _device_generator(run)) is not None:
        if len(now) == len(drawn_there):  # else kernels of ours ran on one of the machines alone
            nt.cuda.set_rng_state(drawn_there, run.device)
    if run.step.scaler is not None:
        run.step.scaler.load_state_dict(tree["scaler"])
    run.rates.state = values["schedule"]
    for callback in run.callbacks:
        if hasattr(callback, "state"):
            callback.state = tree["callbacks"].get(callback.name, callback.state)


def _device_generator(run: Run) -> nt.Tensor | None:
    """Where the stream of the run's GPU stands; None on the CPU."""
    return nt.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None


def _release_frozen_until(run: Run, at: Position) -> None:
    """Give the optimizer its groups in the order in which they came."""
    begun = at.epoch if at.batch == 0 else at.epoch + 1
    for start in sorted(set(run.config.model.unfreeze_at.values())):
        if start < begun:
            run.release_frozen(start)
