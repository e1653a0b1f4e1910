"""A module that is registered and never called."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    NONLINEAR,
    PROJECTIONS,
    Evidence,
    Flow,
    operation,
    operation_of_module,
    sources_read,
)
from cnnprobe.diagnosis.evidence.questions import (
    called,
    complete,
    is_routed,
    owner,
    reached,
    spoken,
    traces,
)
from cnnprobe.diagnosis.evidence.texts import Chosen
from cnnprobe.records.trace import ModuleInfo, TensorInfo, is_within
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

LAYERS = ("linear", "conv")


def _net(used: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.fc1(x.flatten(1)))
            x = torch.relu(self.fc2(x)) if used else x
            return self.fc3(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """fc2 was forgotten in the forward."""
    return _net(used=False)


def healthy() -> Mapping[str, Any]:
    """All layers are used."""
    return _net(used=True)


@rule(
    code="CP309",
    name="unused-module",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("unused-params", "missing-nonlinearity"),
)
def unused_module(evidence: Evidence) -> Iterator[Finding]:
    """A module is registered, but no pass calls it or uses its weights.

    Why it matters: the forward is not the network that the constructor describes.
    What to do: call it in the forward, or remove it.
    Known exceptions: containers; modules that are used through their weights; parts that only train
    or only eval mode calls. It is info for what has no parameters (but an activation in whose place
    no other stands), experts that got no sample of this batch, members of a ModuleDict of which
    another was called, what an attribute or argument chooses (a stage of progressive growing, a
    head by its task), and, where only the forward is seen, whole networks beside it (a decoder, a
    critic).
    Source: the registry of torch.nn.Module against its recorded calls.
    """
    if not complete(evidence) or not any(c.fqn is not None for c in evidence.trace.calls):
        return
    choices = _chosen_among(evidence)
    settings = {chosen.module: chosen for chosen in evidence.texts.chosen}
    bare: list[ModuleInfo] = []
    for module in _idle(evidence):
        owned = [
            p
            for p in evidence.trace.parameters
            if p.kind == "parameter" and p.fqn.startswith(module.fqn + ".")
        ]
        if not owned:
            bare.append(module)
            continue
        setting = next(
            (settings[f] for f in (module.fqn, *_above(module.fqn)) if f in settings), None
        )
        is_choice = setting is not None or any(_is_inside(module.fqn, c) for c in choices)
        doubtful = is_choice or not any(p.trainable for p in owned)
        elsewhere = not any(step.losses for step in evidence.steps) and _is_network(
            evidence, module
        )
        yield Finding(
            module=module.fqn,
            severity=Severity.INFO if doubtful or elsewhere else Severity.WARNING,
            message=(
                f"{spoken(evidence, module.fqn)} ({module.kind}) is registered with "
                f"{format_counted(len(owned), 'parameter')}, but "
            )
            + ("nothing in it was called" if module.is_container else "was called 0 times")
            + (f", where {_say_setting(evidence, setting)}" if setting else ""),
            kind="chosen" if is_choice else "",
            fix="nothing, where another value chooses it later"
            if setting
            else "nothing, where another batch or another call chooses it"
            if is_choice
            else "call it in the forward, or remove it"
            + ("; if the training step calls it, pass train_step" if elsewhere else ""),
        )
    unapplied = _find_unapplied(evidence, bare)
    if unapplied:
        yield _describe_unapplied(evidence, unapplied)
    if rest := [module for module in bare if module not in unapplied]:
        yield _describe_bare(evidence, rest)


def _say_setting(evidence: Evidence, chosen: Chosen) -> str:
    """What decides whether it is called: "model.stage is 1"."""
    of_self = chosen.by.partition("self.")[2]
    if of_self:
        return f"{spoken(evidence, chosen.owner)}.{of_self} is {chosen.value}"
    if chosen.by.endswith("()"):
        return f"{chosen.by} draws another one in {spoken(evidence, chosen.owner)}"
    return f"the argument {chosen.by} of {spoken(evidence, chosen.owner)} decides"


def _find_unapplied(evidence: Evidence, bare: Sequence[ModuleInfo]) -> list[ModuleInfo]:
    """The activations that are never called in a block of layers, where none stands in their place:
    neither in the block nor between it and the next layer.
    """
    flow = Flow(evidence.trace)
    found = []
    for module in bare:
        block = module.fqn.rpartition(".")[0]
        rows = [i for i in flow.primitives() if _is_in(flow.owner(i), block)]
        layers = [i for i in rows if operation(flow.calls[i]) in LAYERS]
        if (
            operation_of_module(module) in NONLINEAR
            and layers
            and not any(operation(flow.calls[i]) in NONLINEAR for i in rows)
            and (len(layers) > 1 if not block else _goes_on_linearly(flow, rows, block))
        ):
            found.append(module)
    return found


def _is_in(owner_name: str | None, block: str) -> bool:
    return owner_name is not None and (
        not block or owner_name == block or owner_name.startswith(f"{block}.")
    )


def _goes_on_linearly(flow: Flow, rows: Sequence[int], block: str) -> bool:
    """Whether what leaves a block comes to a layer of weights by every way, and to no activation
    before.
    """
    stack = [r for i in rows for r in flow.readers.get(i, ()) if not _is_in(flow.owner(r), block)]
    met, arrives = set[int](), False
    while stack:
        row = stack.pop()
        if row in met:
            continue
        met.add(row)
        kind = operation(flow.calls[row])
        if kind in NONLINEAR or flow.owner(row) is None:
            return False
        if kind in LAYERS:
            arrives = True
        else:
            stack += flow.readers.get(row, ())
    return arrives


def _describe_unapplied(evidence: Evidence, found: Sequence[ModuleInfo]) -> Finding:
    first, one = found[0], len(found) == 1
    return Finding(
        module=first.fqn,
        severity=Severity.WARNING,
        message=(
            f"{format_counted(len(found), 'activation')} {'was' if one else 'were'} called 0 times "
            f"(the first is {spoken(evidence, first.fqn)}, {first.kind}), and no other stands in "
            f"{'its' if one else 'their'} place: the layers follow each other without one"
        ),
        fix=f"call {spoken(evidence, first.fqn)} in the forward of its block",
        kind="unapplied",
    )


def _describe_bare(evidence: Evidence, bare: Sequence[ModuleInfo]) -> Finding:
    """The modules that have no parameters and are not called."""
    first, (was, them) = bare[0], ("was", "it") if len(bare) == 1 else ("were", "them")
    return Finding(
        module=first.fqn,
        severity=Severity.INFO,
        message=(
            f"{format_counted(len(bare), 'module')} without parameters {was} called 0 times "
            f"(the first is {spoken(evidence, first.fqn)}, {first.kind})"
        ),
        fix=f"call {them} in the forward, or remove {them}",
    )


def _idle(evidence: Evidence) -> list[ModuleInfo]:
    """The modules of which nothing was called or read, without those inside another such one."""
    used = called(evidence)
    read = set().union(*(sources_read(trace) for trace in traces(evidence))) | (
        reached(evidence) or frozenset()
    )
    used_owners = {owner(name) for name in read}
    by_name = {m.fqn: m for m in evidence.trace.modules}
    alive = {
        f
        for m in evidence.trace.modules
        for f in (m.fqn, *_above(m.fqn))
        if {*m.aliases, m.fqn} & used or m.fqn in used_owners
    }
    idle: list[ModuleInfo] = []
    for module in evidence.trace.modules:
        is_empty = module.is_container and not any(_is_inside(m, module.fqn) for m in by_name)
        if (
            not module.fqn
            or module.fqn in alive
            or is_empty
            or any(_is_inside(module.fqn, i.fqn) for i in idle)
            or is_within(module.fqn, evidence.trace.opaque)
        ):
            continue
        if "parametrizations" not in module.fqn and not _belongs_to_stock(module.fqn, by_name):
            idle.append(module)
    return idle


def _is_network(evidence: Evidence, module: ModuleInfo) -> bool:
    """Whether it is one of several layers that takes what the model takes or gives, or gives what
    it takes: a decoder, a critic, a teacher.
    """
    layers = [
        m.config
        for m in evidence.trace.modules
        if _is_inside(m.fqn, module.fqn) and operation_of_module(m) in PROJECTIONS
    ]
    if len(layers) < 2:
        return False
    outputs = [
        info for i in Flow(evidence.trace).roots() for info in evidence.trace.calls[i].outputs
    ]
    given, made = _widths(evidence.inputs), _widths(outputs)
    first, last = layers[0], layers[-1]
    takes = first.get("in_channels", first.get("in_features"))
    return takes in given | made or last.get("out_channels", last.get("out_features")) in given


def _widths(infos: Iterable[TensorInfo]) -> set[int]:
    """The channels of images, the features of rows and sequences, and of what is flattened."""
    return {
        size
        for info in infos
        if len(info.shape) > 1
        for size in (info.shape[-1 if len(info.shape) == 3 else 1], math.prod(info.shape[1:]))
    }


def _is_inside(fqn: str, other: str) -> bool:
    return fqn.startswith(other + ".")


def _belongs_to_stock(fqn: str, by_name: Mapping[str, ModuleInfo]) -> bool:
    """Whether a layer of torch's own holds it: those use their parts in their own way."""
    parts = fqn.split(".")
    above = [".".join(parts[:i]) for i in range(1, len(parts))]
    return any(by_name[a].is_stock and not by_name[a].is_container for a in above if a in by_name)


def _chosen_among(evidence: Evidence) -> set[str]:
    """The containers whose members are chosen from by the forward: a ModuleDict by its keys, a list
    of experts by which samples go to each.
    """
    found = set()
    kinds = {m.fqn: m.kind for m in evidence.trace.modules if m.is_container}
    for trace in traces(evidence):
        flow = Flow(trace)
        for i, call in enumerate(trace.calls):
            holder = next(
                (h for h in _above(call.fqn or "") if kinds.get(h) in ("ModuleDict", "ModuleList")),
                None,
            )
            if holder is None:
                continue
            maker = flow.producer(flow.data(i))
            routed = maker is not None and is_routed(flow.calls[maker])
            if kinds[holder] == "ModuleDict" or routed:
                found.add(holder)
    return found


def _above(fqn: str) -> list[str]:
    parts = fqn.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
