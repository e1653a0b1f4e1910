"""Programs of the verbs on every rank of gloo:
`python -m tests.support.verb_programs NAME FOLDER`.
"""

import json
import pathlib
import sys

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from cnnprobe.errors import TargetError
from cnnprobe.recorder import peers
from tests.support.measured import Images, make_net
from tests.support.rank_programs import batch, begin, end, net, shard


def verbs(folder):
    """The verbs on one rank alone and on both, between the steps of a training."""
    rank = begin(seconds=10)
    x, y = batch(rank, 0)
    said = {}
    model = DistributedDataParallel(net(norm=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step():
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    step()
    if rank == 0:
        before = [tensor.clone() for tensor in model.state_dict().values()]
        report = cnnprobe.probe(model, x)
        said["probe"] = [*report.trace.notes, str(report.trace["module.0"].outputs[0].shape)]
        report = cnnprobe.diagnose(model, x, y, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)
        said["diagnose"] = list(report.trace.notes)
        after = model.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert "forward" not in vars(model)
    step()  # hangs, or raises, where a verb has touched the reducer
    with cnnprobe.record(model) as recording:
        step()
    said["record"] = list(recording.trace.notes)

    peers.PATIENCE = 1.0
    parts = shard(net(), (2,))
    if rank == 0:
        said["refused"] = str(_catch(cnnprobe.probe, parts, x))
        said["left alone"] = str(_catch(cnnprobe.diagnose, parts, x, y))
    torch.distributed.barrier()
    peers.PATIENCE = 20.0  # rank 1 was not at the first meeting, and finds the second
    report = cnnprobe.probe(parts, x)
    said["sharded"] = list(report.trace.notes)
    values = [
        float(report.output.detach().double().sum()),
        report.trace[""].outputs[0].stats["mean"],
    ]
    said["sums"] = [*values, float(net()(x).double().sum())]
    said["diagnosis"] = diagnose_shards(rank)
    measured = cnnprobe.measure(fully_shard(make_net()), Images(10), batch_size=4)
    said["measured"] = [
        (name, found.low, found.high, found.statistics.mean)
        for name, found in ((name, measured.of(name)) for name in ("0", "2", "5"))
    ]
    if rank == 0:
        loader = DataLoader(TensorDataset(x, y), batch_size=2)
        inspected = cnnprobe.inspect_data(loader, model=parts, loss_fn=nn.CrossEntropyLoss())
        said["inspected"] = type(inspected).__name__
    (folder / f"{rank}.json").write_text(json.dumps(said))
    end()


def split(model):
    """Tensor parallelism: each rank has a part of the last layer's outputs."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    return parallelize_module(model, mesh, {"3": ColwiseParallel()})


def diagnose_shards(rank):
    """What is found in a sharded model and in the same one as a whole, and what becomes of the
    shards.
    """

    def make():
        return nn.Sequential(*net(norm=True), nn.Softmax(dim=1))

    def make_optimizer(model):
        return torch.optim.Adam(model.parameters(), lr=0.01)

    def step(model, optimizer):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def list_tensors():
        held = [*parts.state_dict().values(), *optimizer.state_dict()["state"][0].values()]
        return [getattr(tensor, "_local_tensor", tensor).clone() for tensor in held]

    x, y = batch(0, 0, 4)  # the same on all ranks: the shards are then as the whole is
    whole, parts, twin = make(), shard(make(), (2,)), shard(make(), (2,))
    optimizers = optimizer_of_whole, optimizer, _ = [*map(make_optimizer, (whole, parts, twin))]
    losses = [[step(each, its)] for each, its in zip((whole, parts, twin), optimizers, strict=True)]
    before, generator = list_tensors(), torch.get_rng_state()
    reports = [
        cnnprobe.diagnose(each, x, y, loss_fn=nn.CrossEntropyLoss(), optimizer=its)
        for each, its in ((whole, optimizer_of_whole), (parts, optimizer))
    ]
    as_before = all(map(torch.equal, before, list_tensors())) and torch.equal(
        generator, torch.get_rng_state()
    )
    own = batch(rank, 1)  # each rank its own, and so as many passes as it asks for
    other = cnnprobe.diagnose(parts, *own, loss_fn=nn.CrossEntropyLoss(), steps=2 + rank)
    losses[1].append(step(parts, optimizer))
    losses[2].append(step(twin, optimizers[2]))
    return {
        "found": [[(f.rule, f.module, f.message) for f in report.findings] for report in reports],
        "as before": as_before,
        "losses": losses[1:],
        "notes": [*reports[1].trace.notes],
        "calls": [len(each.trace.calls) for each in (reports[0], other)],
        "split": str(_catch(cnnprobe.diagnose, split(net()), x, y)),
        "step": str(_catch(lambda: cnnprobe.diagnose(parts, x, y, train_step=step))),
    }


def _catch(verb, *args):
    try:
        return verb(*args)
    except TargetError as error:
        return error


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]))
