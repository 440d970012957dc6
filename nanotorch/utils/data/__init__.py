"""Datasets, samplers and the loader, as `torch.utils.data` names them."""

from typing import TYPE_CHECKING

from nanotorch.backend.loading import on_demand
from nanotorch.utils.data.collate import (
    default_collate as default_collate,
    default_convert as default_convert,
)
from nanotorch.utils.data.dataloader import DataLoader as DataLoader
from nanotorch.utils.data.dataset import (
    ChainDataset as ChainDataset,
    ConcatDataset as ConcatDataset,
    Dataset as Dataset,
    IterableDataset as IterableDataset,
    Subset as Subset,
    TensorDataset as TensorDataset,
    random_split as random_split,
)
from nanotorch.utils.data.sampler import (
    BatchSampler as BatchSampler,
    RandomSampler as RandomSampler,
    Sampler as Sampler,
    SequentialSampler as SequentialSampler,
    SubsetRandomSampler as SubsetRandomSampler,
    WeightedRandomSampler as WeightedRandomSampler,
)

if TYPE_CHECKING:
    from nanotorch.utils.data.workers import (
        WorkerInfo as WorkerInfo,
        get_worker_info as get_worker_info,
    )
else:
    __getattr__, __dir__ = on_demand(__name__)
