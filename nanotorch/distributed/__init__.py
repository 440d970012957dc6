"""Several processes that train one model, under `torch.distributed`'s names: docs/scaling.md."""

from nanotorch.distributed.gradients import average_gradients as average_gradients
from nanotorch.distributed.group import (
    ReduceOp as ReduceOp,
    all_gather as all_gather,
    all_reduce as all_reduce,
    barrier as barrier,
    broadcast as broadcast,
    destroy_process_group as destroy_process_group,
    get_backend as get_backend,
    get_rank as get_rank,
    get_world_size as get_world_size,
    init_process_group as init_process_group,
    is_available as is_available,
    is_initialized as is_initialized,
)
from nanotorch.distributed.world import DistError as DistError
