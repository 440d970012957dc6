"""Optimizers and learning rate schedules, as `torch.optim` names them."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand
from nanotorch.optim.host_step import HostRunner
from nanotorch.optim.optimizer import Optimizer as Optimizer, runners
from nanotorch.optim.sgd import SGD as SGD

if TYPE_CHECKING:
    from nanotorch.optim import lr_scheduler as lr_scheduler, swa_utils as swa_utils
    from nanotorch.optim.adadelta import Adadelta as Adadelta
    from nanotorch.optim.adagrad import Adagrad as Adagrad
    from nanotorch.optim.adam import Adam as Adam, AdamW as AdamW
    from nanotorch.optim.adamax import Adamax as Adamax
    from nanotorch.optim.lbfgs import LBFGS as LBFGS
    from nanotorch.optim.nadam import NAdam as NAdam
    from nanotorch.optim.radam import RAdam as RAdam
    from nanotorch.optim.rmsprop import RMSprop as RMSprop
    from nanotorch.optim.sparse_adam import SparseAdam as SparseAdam
else:
    __getattr__, __dir__ = on_demand(__name__)

runners.append(HostRunner)
