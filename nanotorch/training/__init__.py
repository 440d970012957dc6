"""Training from a configuration: data, model, loop, checkpoints, curves and reports."""

from nanotorch.training.config.command_line import read_request as read_request
from nanotorch.training.exits import exit_code as exit_code
from nanotorch.training.fit import fit as fit, train as train
from nanotorch.training.live import LiveCurve as LiveCurve
