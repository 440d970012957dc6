"""Learning rate schedules, with the formulas and the step-by-step form of PyTorch's."""

from nanotorch.optim.lr_scheduler.annealing import (
    CosineAnnealingLR as CosineAnnealingLR,
    CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts,
    OneCycleLR as OneCycleLR,
)
from nanotorch.optim.lr_scheduler.composite import (
    ChainedScheduler as ChainedScheduler,
    SequentialLR as SequentialLR,
)
from nanotorch.optim.lr_scheduler.cyclic import CyclicLR as CyclicLR
from nanotorch.optim.lr_scheduler.multiplied import (
    ConstantLR as ConstantLR,
    ExponentialLR as ExponentialLR,
    LambdaLR as LambdaLR,
    LinearLR as LinearLR,
    MultiplicativeLR as MultiplicativeLR,
    MultiStepLR as MultiStepLR,
    PolynomialLR as PolynomialLR,
    StepLR as StepLR,
)
from nanotorch.optim.lr_scheduler.plateau import ReduceLROnPlateau as ReduceLROnPlateau
from nanotorch.optim.lr_scheduler.scheduler import (
    LRScheduler as LRScheduler,
    LRScheduler as _LRScheduler,  # its older spelling
)
