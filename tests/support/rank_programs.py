"""Programs that run on every rank of gloo:
`python -m tests.support.rank_programs NAME FOLDER ...`.
"""

import contextlib
import datetime as dt
import json
import os
import pathlib
import signal
import sys
import threading
import time
import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import cnnprobe
from cnnprobe.monitoring import comparing, differing
from cnnprobe.ranks import all_rank_rules

LIMIT = 100  # seconds: a program that hangs ends by itself


def begin(seconds=30):
    signal.alarm(LIMIT)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=dt.timedelta(seconds=seconds))
    return torch.distributed.get_rank()


def net(*, norm=False):
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def batch(rank, step, samples=4):
    seeded = torch.Generator().manual_seed(100 * rank + step)
    x = torch.randn(samples, 3, 6, 6, generator=seeded)
    return x, torch.randint(0, 3, (samples,), generator=seeded)


def train(
    model, rank, *, steps=4, log=None, before=lambda step: None, samples=4, device="cpu", **options
):
    """A plain loop under a monitor; `before` is called before each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with cnnprobe.monitor(model, optimizer, log=log, **options) as watched:
        for step in range(steps):
            before(step)
            x, y = (each.to(device) for each in batch(rank, step, samples))
            optimizer.zero_grad()
            watched.loss(cross_entropy(model(x), y)).backward()
            optimizer.step()
    return watched


def end():
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


# -- the programs ----------------------------------------------------------------------------------


def examples(folder):
    """The sick and the healthy loop of every rule."""
    rank = begin()
    for rule in all_rank_rules():
        for kind in ("sick", "healthy") if rule.sick is not None else ():
            loop = getattr(rule, kind)(rank)
            log = folder / f"{rule.name}-{kind}"
            with cnnprobe.monitor(
                loop["model"], loop["optimizer"], loss_fn=loop["loss_fn"], log=log
            ) as watched:
                for step in range(6):
                    loop["step"](step)
            watched.merged(seconds=30).save(folder / f"{rule.name}-{kind}-{rank}.json")
    end()


def exact(folder):
    """Sound training on all ranks, with and without a monitor."""
    rank = begin()
    states = []
    for log in (folder / "logs", None):
        model = DistributedDataParallel(net())
        if log is None:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            for step in range(4):
                x, y = batch(rank, step)
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
        else:
            watched = train(model, rank, log=log, histograms=True)
            watched.merged(seconds=30).save(folder / f"merged{rank}.json")
        states.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True)), "the monitor changed it"
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    assert not any(hooks)
    end()


def faults(folder):
    """On each of four ranks another fault; each in a run of its own."""
    rank = begin()

    def spoil(model, step):
        if step == 1 and rank == 2:
            with torch.no_grad():
                next(model.modules()).module[0].bias[0] = float("nan")

    torch.manual_seed(rank)  # another seed, and nobody sends the parameters
    seeded = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    train(seeded, rank, log=folder / "seed", steps=2)

    model = DistributedDataParallel(net())
    train(model, rank, log=folder / "nan", before=lambda step: spoil(model, step))

    def sleep(step):
        if rank == 3 and step == 3:
            time.sleep(0.6)

    train(DistributedDataParallel(net()), rank, log=folder / "sleep", before=sleep)

    class Counting(nn.Module):
        """Counts the steps in a buffer, except on a rank where it stands still."""

        def __init__(self, frozen):
            super().__init__()
            self.inner, self.frozen = net(), frozen
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            if not self.frozen:
                self.count += 1
            return self.inner(x)

    for name, frozen in (("frozen", rank == 1), ("sound", False)):
        whole = DistributedDataParallel(Counting(frozen), **send_no_buffers())
        train(whole, rank, log=folder / name)

    skipping = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(skipping.parameters(), lr=0.05)
    with cnnprobe.monitor(skipping, optimizer, log=folder / "skipped"):
        for step in range(4):
            x, y = batch(rank, step)
            with skipping.no_sync() if step == 1 else contextlib.nullcontext():
                optimizer.zero_grad()
                cross_entropy(skipping(x), y).backward()
            optimizer.step()
    end()


class SlowBackward(nn.Module):
    """Its backward takes a second, where it is asked to be slow."""

    def __init__(self, is_slow):
        super().__init__()
        self.is_slow = is_slow

    def forward(self, x):
        if self.is_slow():
            x.register_hook(lambda _: time.sleep(1.0))
        return x


def told(folder):
    """What rank 0 says while it trains: of each run, what had been said when each step began."""
    rank = begin()
    said = {}

    def run(name, model, before=lambda step: None, around=lambda step: contextlib.nullcontext()):
        said[name] = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with cnnprobe.monitor(model, optimizer, log=folder / name):
                for step in range(5):
                    time.sleep(0.3)
                    said[name].append([str(each.message) for each in seen])
                    before(step)
                    x, y = batch(rank, step)
                    optimizer.zero_grad()
                    with around(step):
                        cross_entropy(model(x), y).backward()
                    optimizer.step()
            said[name].append([str(each.message) for each in seen])
        assert not [t for t in threading.enumerate() if t is not threading.main_thread()]

    def skip(step):
        return skipping.no_sync() if step == 1 else contextlib.nullcontext()

    def spoil(step):
        if step == 1 and rank == 2:
            with torch.no_grad():
                spoiled.module[0].bias[0] = float("nan")

    def sleep(step):
        time.sleep(0.5 if rank == 1 and step >= 2 else 0)

    def make(**options):
        return DistributedDataParallel(net(**options), **send_no_buffers())

    skipping, spoiled = make(), make()
    run("sound", make())
    run("skipped", skipping, around=skip)
    run("nan", spoiled, spoil)
    run("late", make(), sleep)
    run("norms", make(norm=True))
    first, *others = net()
    slow = nn.Sequential(first, SlowBackward(lambda: rank == 2 and len(said["slow"]) > 2), *others)
    run("slow", DistributedDataParallel(slow, **send_no_buffers()))
    if rank == 0:
        (folder / "said.json").write_text(json.dumps(said))
    end()


def send_no_buffers():
    from cnnprobe.ranks.rules.material import send_no_buffers

    return send_no_buffers()


def unused(folder):
    """A branch that rank 1 does not take, in step 1: rank 0 waits for its gradients in vain."""
    rank = begin(seconds=4)

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.extra, self.taken = nn.Linear(108, 3), nn.Linear(108, 3), True

        def forward(self, x):
            x = x.flatten(1)
            return self.body(x) + (self.extra(x) if self.taken else 0)

    torch.manual_seed(0)
    model = DistributedDataParallel(Branching())

    def leave(step):
        model.module.taken = rank == 0 or step == 0

    with contextlib.suppress(RuntimeError):
        train(model, rank, log=folder, before=leave)
        raise SystemExit("nothing was raised")


def killed(folder, victim):
    """One rank is killed in step 3."""
    rank = begin(seconds=10)
    comparing._BEAT, differing.SILENT = 0.3, 1.5

    def kill(step):
        if rank == int(victim) and step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watched = cnnprobe.monitor(model, optimizer, log=folder / "logs")
    with contextlib.suppress(RuntimeError), watched:
        for step in range(6):
            kill(step)
            x, y = batch(rank, step)
            optimizer.zero_grad()
            watched.loss(cross_entropy(model(x), y)).backward()
            optimizer.step()
    begun = time.monotonic()
    watched.merged(seconds=3).save(folder / f"merged{rank}.json")
    assert time.monotonic() - begun < 10
    os._exit(0)  # as gloo waits for the dead rank while it is taken down


def left(folder):
    """Without a wrapper: rank 0 leaves its loop after two steps, and rank 2 parts from rank 1."""
    rank = begin()
    comparing._BEAT, comparing._GRACE = 0.3, 0.5

    def part(model, step):
        time.sleep(0.2)
        if rank == 2 and step == 20:
            with torch.no_grad():
                model[0].weight.add_(1.0)

    model = net()
    train(model, 0, steps=2 if rank == 0 else 24, before=lambda step: part(model, step))
    end()


def measure(folder, samples, *victims):
    """The statistics of a data set, each rank its part; rank 1 of a broken one raises, and a
    victim kills itself in its third pass.
    """
    from cnnprobe.measuring import log
    from tests.support.measured import Images, kill_after, make_net

    rank, model = begin(), make_net()
    if victims:
        log.PAUSE = log.FACTOR = 0  # seconds: each batch is written
    if str(rank) in victims:
        kill_after(model, 2)
    broken, seen = 5 if (folder / "broken").exists() else None, folder / f"seen{rank}.txt"
    data = Images(int(samples), broken=broken, seen=seen)
    try:
        found = cnnprobe.measure(model, data, batch_size=4, log=folder / "log.jsonl")
    except Exception as error:
        (folder / f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
    else:
        found.save(folder / f"found{rank}.json")
    torch.distributed.destroy_process_group()


def shard(model, sizes):
    """fully_shard over a mesh of these sizes: the last one shards, one before it replicates."""
    names = ("replicate", "shard")[-len(sizes) :]
    mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded(folder):
    """Training under FSDP2, over all four ranks and over two pairs of them."""
    rank = begin()
    for name, sizes in (("whole", (4,)), ("pairs", (2, 2))):
        train(shard(net(), sizes), rank, log=folder / name, histograms=True)
    end()


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
