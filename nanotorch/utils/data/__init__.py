"""Datasets, samplers and the loader, as `torch.utils.data` names them."""

from nanotorch.utils.data.collate import default_collate as default_collate
from nanotorch.utils.data.dataloader import (
    DataLoader as DataLoader,
    default_convert as default_convert,
)
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
