"""Small loops that the examples of the rules share; each runs on two ranks."""

from collections.abc import Callable, Mapping
from typing import Any


def learn(
    model: Any,
    inputs: Callable[[int], Any],
    *,
    rate: float = 0.05,
    wrapped: bool = True,
    **options: Any,
) -> Mapping[str, Any]:
    """A loop that trains a classifier.

    Args:
        model: what is trained.
        inputs: a step's batch, which differs from rank to rank.
        rate: the learning rate.
        wrapped: whether it stands in DistributedDataParallel.
        options: of DistributedDataParallel.
    """
    import torch
    from torch import nn

    whole = nn.parallel.DistributedDataParallel(model, **options) if wrapped else model
    optimizer = torch.optim.SGD(whole.parameters(), lr=rate)
    loss_fn = nn.CrossEntropyLoss()

    def step(number: int) -> None:
        x = inputs(number)
        optimizer.zero_grad()
        loss_fn(whole(x), label(x)).backward()
        optimizer.step()

    return {"model": whole, "optimizer": optimizer, "step": step, "loss_fn": loss_fn}


def label(x: Any) -> Any:
    """A class for each sample, which can be learned."""
    return (x.flatten(1).sum(1) > 0).long() + (x.flatten(1)[:, 0] > 0).long()


def draw(rank: int, *, samples: int = 16) -> Callable[[int], Any]:
    """Batches that differ from rank to rank and from step to step."""
    import torch

    def inputs(number: int) -> Any:
        seeded = torch.Generator().manual_seed(1000 * rank + number)
        return torch.randn(samples, 3, 6, 6, generator=seeded)

    return inputs


def make_net(*, norm: bool = False) -> Any:
    """A small network, the same on each rank."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def send_no_buffers() -> dict[str, bool]:
    """The option of DistributedDataParallel that leaves buffers alone, as this torch calls it."""
    import inspect

    from torch import nn

    known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    return {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
