"""Programs of ranks on one GPU: `python -m tests.support.cuda_programs NAME FOLDER BACKEND`."""

import datetime as dt
import json
import pathlib
import signal
import sys

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import cnnprobe
from tests.support.measured import Images, make_net
from tests.support.rank_programs import LIMIT, batch, end, net, send_no_buffers, train

STEPS = 5


def begin(backend):
    """The rank, and the device: NCCL takes one rank a GPU, gloo several."""
    signal.alarm(2 * LIMIT)  # a kernel may be compiled first
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.distributed.init_process_group(backend, timeout=dt.timedelta(seconds=60))
    return torch.distributed.get_rank(), "cuda" if torch.cuda.is_available() else "cpu"


def learn(model, rank, device):
    """The losses of the same training without a monitor."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in range(STEPS):
        x, y = (each.to(device) for each in batch(rank, step))
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def make(device):
    return DistributedDataParallel(net(norm=True).to(device))


def take_state(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def is_same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def look_at(model, x, y):
    """What `probe` and `diagnose` say of the model, beside torch."""
    said, before = {}, take_state(model)
    report = cnnprobe.probe(model, x)
    diagnosis = cnnprobe.diagnose(model, x, y, loss_fn=nn.CrossEntropyLoss())
    said["as before"] = is_same(before, take_state(model))
    found, inside = report.trace["module.0"].outputs[0], model.module[0](x).detach().double()
    said["device"] = found.device
    said["mean"] = [inside.mean().item(), found.stats["mean"]]
    said["max"] = [inside.max().item(), found.stats["max"]]
    said["output"] = torch.equal(report.output, model.module(x))
    model.load_state_dict(before)  # the pass above has updated the running statistics
    said["diagnosis"] = [diagnosis.explanation is None, len(diagnosis.trace.calls)]
    return said


def verbs(folder, backend):
    """Every verb under DistributedDataParallel, against the same training without them."""
    rank, device = begin(backend)
    plain, watched = make(device), make(device)
    losses = learn(plain, rank, device)
    said = {}

    def look(step):
        if step == 2:
            said.update(look_at(watched, *(each.to(device) for each in batch(rank, 0))))

    log = folder / "run.jsonl"
    monitor = train(watched, rank, steps=STEPS, log=log, before=look, device=device)
    said["losses"] = [losses, monitor.history.curve("loss").values]
    said["weights"] = is_same(take_state(plain), take_state(watched))
    said["merged"] = monitor.merged(seconds=5) == monitor.report
    said["notes"] = monitor.history.notes
    measured = cnnprobe.measure(
        DistributedDataParallel(make_net().to(device)), Images(10), batch_size=4
    )
    said["measured"] = [mean_of_conv(), measured.of("module.0").statistics.mean]
    said["sharded"] = shard(rank, device)
    (folder / "said.json").write_text(json.dumps(said))
    end()


def mean_of_conv():
    """By torch alone, on the CPU."""
    images = torch.stack([Images(10)[i][0] for i in range(10)])
    with torch.no_grad():
        return make_net().eval()[0](images).double().mean().item()


def shard(rank, device):
    """The losses of a sharded model with and without a monitor."""
    mesh = init_device_mesh(device, (1,))
    plain, watched = (fully_shard(net().to(device), mesh=mesh) for _ in range(2))
    losses = learn(plain, rank, device)
    return losses, train(watched, rank, steps=STEPS, device=device).history.curve("loss").values


def norms(folder, backend):
    """Two ranks share a GPU: BatchNorm of each rank alone, and SyncBatchNorm."""
    rank, device = begin(backend)
    said = {}
    for name in ("alone", "synchronised"):
        inner = net(norm=True).to(device)
        if name == "synchronised":
            inner = nn.SyncBatchNorm.convert_sync_batchnorm(inner)
        model = DistributedDataParallel(inner, **send_no_buffers())

        def look(step, model=model):
            if step == 3 and rank == 0:  # on one rank alone, in the middle of the training
                cnnprobe.probe(model, batch(rank, 0)[0].to(device))

        monitor = train(model, rank, steps=STEPS, log=folder / name, before=look, device=device)
        said[name] = inner[1].running_mean.tolist()
        monitor.merged(seconds=30).save(folder / f"{name}-{rank}.json")
    (folder / f"{rank}.json").write_text(json.dumps(said))
    end()


def skipped(folder, backend):
    """Two ranks share a GPU, and one step is not reduced: the hashes of a device tell it."""
    rank, device = begin(backend)
    model = make(device)

    def skip(step):
        model.require_backward_grad_sync = step != 1

    train(model, rank, log=folder / "log", before=skip, device=device)
    end()


if __name__ == "__main__":
    globals()[sys.argv[1]](pathlib.Path(sys.argv[2]), *sys.argv[3:])
