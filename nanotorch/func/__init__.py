"""Functions that transform functions, as `torch.func` has them: derivatives that compose."""

from nanotorch.func.modules import (
    functional_call as functional_call,
    stack_module_state as stack_module_state,
)
from nanotorch.func.transforms import (
    grad as grad,
    grad_and_value as grad_and_value,
    hessian as hessian,
    hvp as hvp,
    jacfwd as jacfwd,
    jacrev as jacrev,
    jvp as jvp,
    linearize as linearize,
    value_and_grad as value_and_grad,
    vjp as vjp,
)
from nanotorch.func.vectorize import vmap as vmap
