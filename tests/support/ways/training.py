"""Ways in which a model is trained or served: under autocast, in parts, on ranks, quantized, as a
function.
"""

import functools

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from tests.support.ways.way import Way, batch, net


def autocast():
    return Way(net(), (batch(),), around=lambda: torch.autocast("cpu", torch.bfloat16))


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.block, self.head, self.reentrant = net(), nn.Linear(3, 2), reentrant

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))


def checkpointed():
    return Way(Checkpointed(False), (batch(),), inner="block.0")


def checkpointed_reentrant_with_grad():
    return Way(Checkpointed(True), (batch().requires_grad_(),), inner="block.0")


def data_parallel():
    return Way(nn.DataParallel(net()), (batch(),), inner="module.0")


def begin_process_group() -> None:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )


def distributed():
    begin_process_group()
    return Way(nn.parallel.DistributedDataParallel(net()), (batch(),), inner="module.0")


def fully_sharded():
    begin_process_group()
    model = net()
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return Way(model, (batch(),))


def quantized_dynamically():
    return Way(
        torch.ao.quantization.quantize_dynamic(net().eval(), {nn.Linear}, torch.qint8), (batch(),)
    )


def quantized_statically():
    model = nn.Sequential(
        torch.ao.quantization.QuantStub(), net(), torch.ao.quantization.DeQuantStub()
    ).eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
    torch.ao.quantization.prepare(model, inplace=True)
    model(batch())
    return Way(torch.ao.quantization.convert(model, inplace=True), (batch(),), inner="1.0")


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).T


def parametrized():
    model = net()
    nn.utils.parametrize.register_parametrization(model[0], "weight", Symmetric())
    return Way(model, (batch(),))


def spectral_norm():
    model = net()
    nn.utils.parametrizations.spectral_norm(model[0])
    return Way(model, (batch(),))


def lazy():
    torch.manual_seed(0)
    return Way(
        nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyBatchNorm1d(), nn.Linear(4, 3)),
        (batch(),),
    )


def functional_call():
    def call(model, args):
        weights = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
        return torch.func.functional_call(model, weights, args)

    return Way(net(), (batch(),), call=call)


def vmapped():
    return Way(net(), (batch(5, 4),), call=lambda model, args: torch.vmap(model)(*args))


class Ensemble(nn.Module):
    """Maps its child over the batch inside its own forward."""

    def __init__(self):
        super().__init__()
        self.child = net()

    def forward(self, x):
        return torch.vmap(self.child)(x)


def vmapped_inside():
    return Way(Ensemble(), (batch(),), inner="child.0")


class Field(nn.Module):
    """Differentiates its child inside its own forward."""

    def __init__(self):
        super().__init__()
        self.child = net()

    def forward(self, x):
        return torch.func.vmap(torch.func.grad(lambda row: self.child(row).sum()))(x)


def differentiated():
    return Way(Field(), (batch(),), inner="child.0")


class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.child = net()

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.child(x).sum(), x, create_graph=True)[0]


def autograd_inside():
    return Way(Force(), (batch(),), inner="child.0")


def save_products(_, operation, *args, **kwargs):
    is_product = operation is torch.ops.aten.addmm.default
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


class SelectivelyCheckpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = net()

    def forward(self, x):
        make = functools.partial(create_selective_checkpoint_contexts, save_products)
        return checkpoint(self.block, x, use_reentrant=False, context_fn=make)


def selectively_checkpointed():
    return Way(SelectivelyCheckpointed(), (batch(),), inner="block.0")


def tensor_parallel():
    begin_process_group()
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    return Way(parallelize_module(net(), init_device_mesh("cpu", (1,)), plan), (batch(),))


class StackedModels(nn.Module):
    """Three models as one: their weights are stacked, and vmap goes over them."""

    def __init__(self):
        super().__init__()
        stacked, _ = torch.func.stack_module_state([net() for _ in range(3)])
        self.names = list(stacked)
        self.stacked = nn.ParameterList(nn.Parameter(t.detach()) for t in stacked.values())
        self.base = net()

    def forward(self, x):
        def run(weights):
            return torch.func.functional_call(self.base, weights, (x,))

        return torch.vmap(run)(dict(zip(self.names, self.stacked, strict=True)))


def ensemble():
    return Way(StackedModels(), (batch(),), inner="base.0")


class Derivative(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = net()

    def forward(self, x):
        return torch.func.jvp(self.block, (x,), (torch.ones_like(x),))[1]


def forward_mode():
    return Way(Derivative(), (batch(),), inner="block.0")


def in_inference_mode():
    return Way(net(), (batch(),), around=torch.inference_mode)
