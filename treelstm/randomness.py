"""Every random draw of a run, as a pure function of (seed, purpose, index).

No global random state is read or written, and no draw depends on an earlier one, so a run can be
entered at any epoch and any step (DESIGN: training as a pure function).
"""

import numpy as np
import torch

# One stream of random numbers for each purpose; the numbers are part of a run's identity.
WEIGHTS, ORDER, DROPOUT, SPLIT = range(4)


def generator(seed: int, purpose: int, index: int = 0) -> torch.Generator:
    """A generator that depends on its arguments only; on the CPU, so that devices do not differ."""
    # SeedSequence mixes neighbouring seeds and indices into unrelated 64-bit states.
    state = np.random.SeedSequence((seed, purpose, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def epoch_order(seed: int, epoch: int, pairs: int) -> np.ndarray:
    """The order in which epoch `epoch` visits the pairs: a permutation of range(pairs), int64."""
    return torch.randperm(pairs, generator=generator(seed, ORDER, epoch)).numpy()


def dropout_mask(seed: int, step: int, shape: tuple[int, int], dropout: float) -> torch.Tensor:
    """The dropout mask of global step `step`: 0 or 1 / (1 - dropout), float32 of `shape`."""
    kept = torch.rand(shape, generator=generator(seed, DROPOUT, step)) >= dropout
    return kept.float() / (1.0 - dropout)
