"""Every way in which PyTorch runs a model: a tiny model each, how its user calls it, and a layer that is called inside.

`python tests/support/ways.py` writes the table of docs/reference/ways.md anew; the test of the ways holds each of its rows.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import pathlib
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import cnnprobe
from cnnprobe.errors import ProbeError
from cnnprobe.records.trace import Trace


@dataclass(frozen=True)
class Way:
    """A model, its inputs, and how its user calls it."""

    model: nn.Module
    args: tuple[Any, ...]
    inner: str = "0"  # a module that the call reaches
    call: Callable[[nn.Module, tuple[Any, ...]], Any] = lambda model, args: model(*args)
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    loss: Callable[..., Any] = field(
        default=lambda output, *_: first_tensor(output).float().pow(2).mean()
    )


def first_tensor(output: Any) -> torch.Tensor:
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (5, 4)), generator=torch.Generator().manual_seed(1))


class Holder(nn.Module):
    """A model around a child, with a layer of its own."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.child = child

    def forward(self, x):
        return self.child(self.first(x))


def eager():
    return Way(net(), (batch(),))


def compiled():
    return Way(torch.compile(net(), backend="eager"), (batch(),), inner="_orig_mod.0")


def compiled_in_place():
    model = net()
    model.compile(backend="eager")
    return Way(model, (batch(),))


class CompiledMethod(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    @torch.compile(backend="eager")
    def forward(self, x):
        return self.fc(x).relu()


def compiled_method():
    torch.manual_seed(0)
    return Way(CompiledMethod(), (batch(),), inner="fc")


def compiled_child():
    return Way(Holder(torch.compile(net(), backend="eager")), (batch(),), inner="first")


def exported():
    return Way(torch.export.export(net(), (batch(),)).module(), (batch(),))


def unflattened():
    return Way(torch.export.unflatten(torch.export.export(net(), (batch(),))), (batch(),))


def scripted():
    return Way(torch.jit.script(net()), (batch(),))


def scripted_child():
    return Way(Holder(torch.jit.script(net())), (batch(),), inner="first")


def frozen_script():
    return Way(torch.jit.freeze(torch.jit.script(net().eval())), (batch(),))


def frozen_child():
    return Way(Holder(torch.jit.freeze(torch.jit.script(net().eval()))), (batch(),), inner="first")


def traced():
    return Way(torch.jit.trace(net(), (batch(),)), (batch(),))


def traced_child():
    return Way(Holder(torch.jit.trace(net(), (batch(),))), (batch(),), inner="first")


def symbolically_traced():
    return Way(torch.fx.symbolic_trace(net()), (batch(),))


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


def nested():
    rows = torch.nested.nested_tensor([batch(2, 4), batch(3, 4)])
    return Way(
        nn.Sequential(nn.Linear(4, 3)),
        (rows,),
        loss=lambda output, *_: output.to_padded_tensor(0.0).pow(2).mean(),
    )


def nested_jagged():
    rows = torch.nested.nested_tensor([batch(2, 4), batch(3, 4)], layout=torch.jagged)
    return Way(
        nn.Sequential(nn.Linear(4, 3)),
        (rows,),
        loss=lambda output, *_: output.values().pow(2).mean(),
    )


class SparseProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, adjacency, x):
        return self.fc(torch.sparse.mm(adjacency, x))


def sparse_input():
    return Way(SparseProduct(), (torch.eye(5).to_sparse(), batch()), inner="fc")


class SparseWeight(nn.Module):
    def __init__(self, layout):
        super().__init__()
        eye = torch.eye(4)
        self.weight = nn.Parameter(eye.to_sparse() if layout == "coo" else eye.to_sparse_csr())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.sparse.mm(self.weight, x.T).T)


def sparse_parameter():
    return Way(SparseWeight("coo"), (batch(),), inner="fc")


def sparse_csr_parameter():
    return Way(SparseWeight("csr"), (batch(),), inner="fc")


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.mix(torch.fft.fft(x)).abs()


def complex_numbers():
    return Way(Fourier(), (batch(),), inner="mix")


class Tagged(torch.Tensor):
    pass


def subclass():
    return Way(net(), (batch().as_subclass(Tagged),))


def tv_tensor():
    from torchvision import tv_tensors

    torch.manual_seed(0)
    return Way(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (tv_tensors.Image(batch(2, 3, 8, 8)),))


def meta():
    return Way(net().to("meta"), (batch().to("meta"),))


@functools.cache
def _fake_mode():
    return FakeTensorMode()


def fake():
    mode = _fake_mode()
    with mode:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        x = torch.randn(5, 4)
    return Way(model, (x,), around=lambda: mode)


class Branches(nn.Module):
    """Runs its children on threads of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.left, self.right = net(), net()

    def forward(self, x):
        x = self.first(x)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            left, right = pool.map(lambda child: child(x), (self.left, self.right))
        return left + right


def threads_inside():
    return Way(Branches(), (batch(),), inner="left.0")


def on_a_thread():
    def call(model, args):
        outputs = []
        thread = threading.Thread(target=lambda: outputs.append(model(*args)), name="worker")
        thread.start()
        thread.join()
        return outputs[0]

    return Way(net(), (batch(),), call=call)


class Stream(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        for row in x:
            yield self.fc(row)


def generator():
    return Way(
        Stream(), (batch(),), inner="fc", call=lambda model, args: torch.stack(list(model(*args)))
    )


class Awaited(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    async def forward(self, x):
        await asyncio.sleep(0)
        return self.fc(x)


def coroutine():
    return Way(
        Awaited(), (batch(),), inner="fc", call=lambda model, args: asyncio.run(model(*args))
    )


def in_a_coroutine():
    def call(model, args):
        async def request():
            await asyncio.sleep(0)
            return model(*args)

        async def serve():
            return await asyncio.gather(request(), request())

        return asyncio.run(serve())[0]

    return Way(net(), (batch(),), call=call)


class Shaped(nn.Module):
    """Its output is what a function makes of its last layer's."""

    def __init__(self, shape):
        super().__init__()
        self.fc, self.shape = nn.Linear(4, 3), shape

    def forward(self, x):
        return self.shape(self.fc(x))


def with_itself(y):
    loop = [y]
    loop.append(loop)
    return loop


def nest(y, depth=3000):
    for _ in range(depth):
        y = [y]
    return y


class ComputedOnRead(Mapping):
    """Computes its values when they are read, and counts that."""

    def __init__(self, y):
        self.y, self.reads = y, 0

    def __getitem__(self, key):
        self.reads += 1
        if self.reads > 1:
            raise RuntimeError("read twice")
        return self.y

    def __iter__(self):
        return iter(["y"])

    def __len__(self):
        return 1


def output_with_itself():
    return Way(Shaped(with_itself), (batch(),), inner="fc")


def output_nested_deeply():
    return Way(Shaped(nest), (batch(),), inner="fc")


def output_computed_on_read():
    return Way(Shaped(ComputedOnRead), (batch(),), inner="fc")


def output_of_many_tensors():
    return Way(Shaped(lambda y: [y, *torch.zeros(20_000).unbind()]), (batch(),), inner="fc")


class Grown(nn.Module):
    """Registers a layer in its first forward."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        if not hasattr(self, "second"):
            self.second = nn.Linear(4, 3)
        return self.second(x)


def grown_in_forward():
    torch.manual_seed(0)
    return Way(Grown(), (batch(),), inner="second")


class Scaled(nn.Module):
    """Holds a model that it copies for the call."""

    def __init__(self):
        super().__init__()
        self.child = net()

    def forward(self, x):
        import copy

        return self.child(x) + copy.deepcopy(self.child)(x)


def copied_inside():
    return Way(Scaled(), (batch(),), inner="child.0")


WAYS: dict[str, Callable[[], Way]] = {
    "eager": eager,
    "torch.compile(model)": compiled,
    "model.compile()": compiled_in_place,
    "@torch.compile on forward": compiled_method,
    "torch.compile on a child": compiled_child,
    "torch.export(...).module()": exported,
    "torch.export.unflatten": unflattened,
    "torch.jit.script": scripted,
    "torch.jit.script on a child": scripted_child,
    "torch.jit.freeze": frozen_script,
    "torch.jit.trace": traced,
    "torch.jit.trace on a child": traced_child,
    "torch.fx.symbolic_trace": symbolically_traced,
    "autocast": autocast,
    "checkpoint, use_reentrant=False": checkpointed,
    "checkpoint, use_reentrant=True": checkpointed_reentrant_with_grad,
    "DataParallel": data_parallel,
    "DistributedDataParallel": distributed,
    "FSDP2 (fully_shard)": fully_sharded,
    "quantized, dynamic": quantized_dynamically,
    "quantized, static": quantized_statically,
    "parametrized": parametrized,
    "spectral_norm": spectral_norm,
    "lazy": lazy,
    "functional_call": functional_call,
    "vmap over the model": vmapped,
    "vmap in the forward": vmapped_inside,
    "torch.func.grad in the forward": differentiated,
    "autograd.grad in the forward": autograd_inside,
    "nested tensors": nested,
    "nested tensors, jagged": nested_jagged,
    "sparse inputs": sparse_input,
    "sparse parameters (COO)": sparse_parameter,
    "sparse parameters (CSR)": sparse_csr_parameter,
    "complex numbers": complex_numbers,
    "a tensor subclass": subclass,
    "tv_tensors": tv_tensor,
    "meta device": meta,
    "FakeTensorMode": fake,
    "children on threads": threads_inside,
    "the model on a thread": on_a_thread,
    "forward is a generator": generator,
    "forward is a coroutine": coroutine,
    "called in coroutines": in_a_coroutine,
    "an output that holds itself": output_with_itself,
    "an output nested 3,000 deep": output_nested_deeply,
    "an output computed on read": output_computed_on_read,
    "an output of 20,000 tensors": output_of_many_tensors,
    "a layer registered in the forward": grown_in_forward,
    "a copy made in the forward": copied_inside,
}


def make(name: str) -> Way:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return WAYS[name]()


# -- the verbs -----------------------------------------------------------------------------------------------------------------

SEEN, OUTSIDE = "seen", "seen from outside"


def describe_trace(trace: Trace, way: Way) -> str:
    """Whether the layer inside was seen, or the call of what it lies in."""
    check_notes(trace.notes)
    if any(call.fqn == way.inner and call.completed and call.outputs for call in trace.calls):
        return SEEN
    assert trace.notes, "what was not seen is not told"
    assert any(call.completed for call in trace.calls)
    return OUTSIDE


def check_notes(notes: Iterable[str]) -> None:
    assert not [note for note in notes if "please report" in note]


def by_probe(way: Way, _: str) -> str:
    report = cnnprobe.probe(way.model, *way.args)
    assert report.ok, report.error
    return describe_trace(report.trace, way)


def by_record(way: Way, _: str) -> str:
    with cnnprobe.record(way.model) as recording:
        way.call(way.model, way.args)
    cells = [describe_trace(trace, way) for trace in recording.traces]
    return SEEN if SEEN in cells else OUTSIDE


def by_probed(way: Way, _: str) -> str:
    model = cnnprobe.probed(way.model)
    way.call(model, way.args)
    return describe_trace(cnnprobe.last_report(model).trace, way)


def by_autograd_graph(way: Way, _: str) -> str:
    graph = cnnprobe.autograd_graph(way.call(way.model, way.args), way.model)
    if not graph.nodes:
        assert graph.notes
        return "no graph"
    return SEEN if way.inner in {node.module for node in graph.nodes} else OUTSIDE


def by_compare(way: Way, name: str) -> str:
    comparison = cnnprobe.compare(way.model, make(name).model, *way.args)
    if not comparison.equivalent:
        assert "meta device" in str(comparison)
        return "structure only"
    is_outside = cnnprobe.record(way.model)._sealed or "compiled" in str(comparison)
    return OUTSIDE if is_outside else SEEN


def by_refactor(way: Way, _: str) -> str:
    cnnprobe.refactor(way.model, *way.args)
    return OUTSIDE if any(map(is_opaque, way.model.modules())) else SEEN


def is_opaque(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def by_diagnose(way: Way, _: str) -> str:
    inputs = way.args if len(way.args) > 1 else way.args[0]
    report = cnnprobe.diagnose(
        way.model, inputs, torch.zeros(()), loss_fn=lambda output, _: way.loss(output), steps=1
    )
    return describe_trace(report.trace, way)


def by_monitor(way: Way, _: str) -> str:
    parameters = [p for p in way.model.parameters() if not nn.parameter.is_lazy(p)]
    optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
    with cnnprobe.monitor(way.model, optimizer) as monitor:
        for _ in range(3):
            loss = way.loss(way.call(way.model, way.args))
            if loss.requires_grad:
                loss.backward()
                if optimizer is not None:
                    optimizer.step()
    check_notes(monitor.history.notes)
    if not loss.requires_grad:
        return "no steps"
    assert (0, 1, 2) == monitor.history.steps
    if way.inner in {slot.fqn for slot in monitor.ledger.slots}:
        return SEEN
    assert monitor.history.notes or monitor.report.trace.notes
    return OUTSIDE


VERBS: dict[str, Callable[[Way, str], str]] = {
    "probe": by_probe,
    "record": by_record,
    "probed": by_probed,
    "autograd_graph": by_autograd_graph,
    "compare": by_compare,
    "refactor": by_refactor,
    "diagnose": by_diagnose,
    "monitor": by_monitor,
}


def cell(name: str, verb: str) -> str:
    """What a verb does with a way: "seen", "seen from outside", or "refused: why"."""
    way = make(name)
    try:
        with way.around(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return VERBS[verb](way, name)
    except ProbeError as refusal:
        return f"refused: {refusal.what}"


def row(name: str) -> str:
    """The row of the table."""
    return f"| {name} | " + " | ".join(cell(name, verb) for verb in VERBS) + " |"


def write_table() -> None:
    """Put the table into the docs."""
    page = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "ways.md"
    head = page.read_text().partition("| way |")[0]
    lines = [
        "| way | " + " | ".join(f"`{verb}`" for verb in VERBS) + " |",
        "|---" * (len(VERBS) + 1) + "|",
    ]
    page.write_text(head + "\n".join([*lines, *map(row, WAYS)]) + "\n")


if __name__ == "__main__":
    write_table()
