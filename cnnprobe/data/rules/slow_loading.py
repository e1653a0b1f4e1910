"""A loop that waits for its data."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import classifier, images, made
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

SHARE = 0.5  # of the time of the loop
LEAST = 0.02  # seconds a batch, below which the clock of a busy machine tells little


def _waiting(seconds: float) -> Mapping[str, Any]:
    import time

    from torch.utils.data import DataLoader

    ready = images(16)

    def make(i: int) -> Any:
        time.sleep(seconds)
        return ready[i], i % 4

    return {"loader": DataLoader(made(16, make), batch_size=4, shuffle=True), "model": classifier()}


def sick() -> Mapping[str, Any]:
    """Each sample takes 50 ms, as from a slow disk."""
    return _waiting(0.05)


def healthy() -> Mapping[str, Any]:
    """It is there at once."""
    return _waiting(0.0)


@data_rule(code="CP830", name="slow-loading", severity=Severity.INFO, examples=(sick, healthy))
def slow_loading(data: Data) -> Iterator[Finding]:
    """Loading a batch takes longer than training on it.

    Why it matters: the device waits; a faster one, or a smaller model, would change nothing.
    What to do: num_workers=4 or more, pin_memory=True; decode and resize the images once, before
    the training.
    Known exceptions: nothing is said without a model. The step is estimated from above, as three
    forward passes under observation on this machine.
    Source: the torch.utils.data page, "Single- and Multi-process Data Loading"; a backward pass
    costs about two forward passes (Kaplan et al. 2020, arXiv:2001.08361, table 1).
    """
    step, load = data.expected.seconds, data.training.loading.seconds
    if step is None or load < LEAST:
        return
    # With workers, what is waited for is what loading takes beyond the step.
    share = load / (load + step)
    if share > SHARE:
        workers = data.training.loading.workers
        yield Finding(
            message=(
                f"a batch is waited for {load * 1000:.3g} ms with "
                f"{format_counted(workers, 'worker')}, and trained on in at most "
                f"{step * 1000:.3g} ms: {share:.0%} of the time the loop waits (more than "
                f"{SHARE:.0%})"
            ),
            fix="DataLoader(..., num_workers=4)"
            if not workers
            else "more workers, or images that are smaller on disk",
        )
