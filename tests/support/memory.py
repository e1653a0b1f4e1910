"""What torch's CPU allocator really gives out in a training loop, and two networks of the usual
kind.
"""

import contextlib
import gc

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile


def double(i, o):
    layers = []
    for c in (i, o):
        layers += [
            nn.Conv2d(c, o, 3, padding=1, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger et al. 2015, with BatchNorm and padding."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        sizes = [width * 2**k for k in range(depth + 1)]
        self.down = nn.ModuleList(
            double(i, o) for i, o in zip([3, *sizes], sizes[:-1], strict=False)
        )
        self.middle = double(sizes[-2], sizes[-1])
        steps = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps)
        self.merge = nn.ModuleList(double(2 * o, o) for _, o in steps)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.middle(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)


def measure_allocations(model, x, *, training=True, dtype=None, forward=None, steps=2):
    """The peak of the bytes that the allocator has given out, by torch.profiler, with those of the
    model and the input, which were there before.
    """
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)  # as it is by default on a GPU
    optimizer.zero_grad()  # what is let go later would be taken for the loop's own
    forward = forward or model
    gc.collect()  # of what is let go meanwhile the profiler would take off the size
    before = sum(t.nbytes for t in (x, *model.parameters(), *model.buffers()))
    # torch 2.11 warns of events that are cleared at the end of a cycle, even where there is one.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as seen:
        for _ in range(steps if training else 1):
            optimizer.zero_grad()
            cast = torch.autocast("cpu", dtype=dtype, enabled=dtype is not None)
            with cast, contextlib.nullcontext() if training else torch.no_grad():
                loss = forward(x).float().mean()
            if training:
                loss.backward()
                optimizer.step()
            del loss
    optimizer.zero_grad()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return before + peak


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class Blocks(nn.Module):
    """Three blocks of convolutions, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = block(3, 32)
        self.body = nn.Sequential(block(32, 32), block(32, 32), block(32, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def images():
    return torch.zeros(4, 3, 8, 8)
