"""Workers, epochs or samples that draw the same random numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made
from cnnprobe.diagnosis import Finding, Severity

_SEEDS = {"torch": "torch's generator", "numpy": "np.random", "random": "the module random"}


def _noisy(own: bool) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from torch.utils.data import DataLoader

    numbers = np.random.default_rng(0)

    def make(i: int) -> Any:
        noise = torch.tensor(numbers.random()) if own else torch.rand(())
        return images(1, 1, 4, of=i)[0] + noise.float(), i % 4

    return {"loader": DataLoader(made(16, make), batch_size=8, shuffle=True, num_workers=2)}


def sick() -> Mapping[str, Any]:
    """A generator that the data set makes once, and each worker gets a copy of."""
    return _noisy(own=True)


def healthy() -> Mapping[str, Any]:
    """The generator of torch, which each worker has seeded otherwise."""
    return _noisy(own=False)


@data_rule(
    code="CP827",
    name="repeated-random-numbers",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def repeated_random_numbers(data: Data) -> Iterator[Finding]:
    """Two workers, or two epochs, augment with the same random numbers, or nothing is augmented;
    or reading a training sample sets a seed, and all samples get the same numbers.

    Why it matters: there is far less variety than there seems to be; each epoch shows the very same
    images again.
    What to do: draw from torch's generator in __getitem__; or make the generator in worker_init_fn
    from torch.initial_seed().
    Known exceptions: augmentation that depends on the index alone, on purpose, is not random;
    workers that live on (persistent_workers) do not repeat from epoch to epoch.
    Source: the note "Randomness in multi-process data loading" of torch.utils.data; T. Ridnik 2021,
    "Using PyTorch + NumPy? You're making a mistake".
    """
    for split in data.splits:
        trials = split.trials
        said = []
        if split.clues.reseeded and split.name == "training":
            yield Finding(
                message=(
                    f"{split.name}: reading a sample seeds {_SEEDS[split.clues.reseeded]} with one "
                    "constant and draws from it: every sample gets the same random numbers"
                ),
                fix="set no seed in __getitem__ or in its transform; seed once, before the loader",
            )
            continue
        if trials.workers_repeat:
            said.append("two workers augment one sample in the same way, eight times in a row")
        if trials.epochs_repeat:
            said.append(
                "so do two epochs"
                if said
                else "two epochs augment one sample in the same way, eight times in a row"
            )
        if trials.frozen:
            yield Finding(
                message=(
                    f"{split.name}: the transform names {trials.frozen}, and one sample comes out "
                    "the same in 16 readings"
                ),
                fix=(
                    "call the transform in __getitem__, keep what it returns, and set no seed there"
                ),
            )
        if said:
            yield Finding(
                message=f"{split.name}: {', and '.join(said)}",
                fix=(
                    "draw from torch.rand in __getitem__, or seed your own generator in "
                    "worker_init_fn by torch.initial_seed()"
                ),
            )
