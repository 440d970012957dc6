"""Optimizers and learning rate schedules, as `torch.optim` names them."""

from nanotorch.optim import lr_scheduler as lr_scheduler
from nanotorch.optim.adagrad import Adagrad as Adagrad
from nanotorch.optim.adam import Adam as Adam, AdamW as AdamW
from nanotorch.optim.lbfgs import LBFGS as LBFGS
from nanotorch.optim.optimizer import Optimizer as Optimizer
from nanotorch.optim.rmsprop import RMSprop as RMSprop
from nanotorch.optim.sgd import SGD as SGD
