"""The order of the images and the random numbers of their transforms, without a state to save.

Both depend on the seed and the number of a batch alone, not on processes, workers or where a run
was interrupted: a resumed run leaves out the first batches, without loading them.
"""

import copy
import functools
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from mmhybrid.datasets.sample_loading import load_or_replace


def set_random_state(*numbers: int) -> None:
    """Seeds Python, NumPy and PyTorch by a few whole numbers of at least 0."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the transforms of OpenMMLab draw from it)
    torch.manual_seed(seed)


class SampleIndex(int):
    """The index of a sample, with ``seeds`` for its transforms.

    These are the run's seed, the epoch, and the place in the epoch, counted over all processes.
    """

    seeds: tuple[int, ...]


class NumberedSampler(Sampler):
    """Yields the indices of a sampler of MMEngine, each as a :class:`SampleIndex`."""

    def __init__(self, sampler: DefaultSampler | InfiniteSampler) -> None:
        self.sampler = sampler
        self.dataset = sampler.dataset
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[SampleIndex]:
        sampler = self.sampler
        if isinstance(sampler, InfiniteSampler):
            # One of these can be gone through only once; its copy begins anew.
            sampler = InfiniteSampler(sampler.dataset, sampler.shuffle, sampler.seed)
        for place, index in enumerate(map(SampleIndex, sampler)):
            index.seeds = sampler.seed, self.epoch, place * sampler.world_size + sampler.rank
            yield index


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(Sampler):
    """Batches that can begin anywhere. Takes the place of a config's ``batch_sampler``.

    Args:
        sampler (DefaultSampler | InfiniteSampler): Order of the samples.
        batch_size (int): Samples a batch.
        drop_last (bool): Leave out an incomplete batch at the end.
        batch_sampler (dict, optional): The config of another batch sampler that makes the batches,
            such as mmdet's ``AspectRatioBatchSampler``. By default they follow the sampler's order.
    """

    def __init__(
        self,
        sampler: DefaultSampler | InfiniteSampler,
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict[str, Any] | None = None,
    ) -> None:
        self.sampler = NumberedSampler(sampler)
        self.batch_size = batch_size
        self.batches: Any = BatchSampler(self.sampler, batch_size, drop_last)
        if batch_sampler is not None:
            options = dict(sampler=self.sampler, batch_size=batch_size)
            self.batches = DATA_SAMPLERS.build(batch_sampler, default_args=options)
        self.skipped = 0
        # PyTorch's loaders look for this method on the object, in workers too.
        self.sampler.dataset.__getitems__ = functools.partial(_load_seeded, self.sampler.dataset)

    @property
    def is_endless(self) -> bool:
        """Whether the batches have no end, and so no epochs."""
        return isinstance(self.sampler.sampler, InfiniteSampler)

    def start_at(self, epoch: int, batch: int, seed: int) -> None:
        """Makes the next pass that of an epoch (0 where there are none), from some batch on.

        A run that resumes gives the seed of the run before.
        """
        self.sampler.set_epoch(epoch)
        self.sampler.sampler.seed = seed
        self.skipped = batch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        skipped, self.skipped = self.skipped, 0
        # mmdet's keeps unfinished batches, and for ever those of a pass that was left.
        batches = copy.deepcopy(self.batches, {id(self.sampler): self.sampler})
        yield from islice(batches, skipped, None)


def _load_seeded(dataset: Any, indices: Sequence[SampleIndex]) -> list[Any]:
    """Loads the samples of a batch, each with its own random numbers."""
    samples = []
    for index in indices:
        set_random_state(*index.seeds)
        samples.append(load_or_replace(dataset, int(index)))
    return samples
