"""Ways in which a model runs as Python, compiled, exported, scripted or traced."""

import torch
from torch import nn

from tests.support.ways.way import Holder, Way, batch, net


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


# Not strict: the default of an older torch is strict.
def exported():
    return Way(torch.export.export(net(), (batch(),), strict=False).module(), (batch(),))


def unflattened():
    program = torch.export.export(net(), (batch(),), strict=False)
    return Way(torch.export.unflatten(program), (batch(),))


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


def exported_with_dynamic_shapes():
    any_batch = ({0: torch.export.Dim.AUTO},)
    program = torch.export.export(net(), (batch(),), dynamic_shapes=any_batch)
    return Way(program.module(), (batch(),))


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x)
        return torch.cond(x.sum() > 0, self.left, self.right, (x,))


def conditional():
    torch.manual_seed(0)
    return Way(Conditional(), (batch(),), inner="left")
