"""A module that is registered and never called."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence, Flow, operation, sources_read
from cnnprobe.evidence.questions import called, complete, owner, reached, spoken, traces
from cnnprobe.rulebook.material import classifying
from cnnprobe.trace import ModuleInfo

ROUTING = frozenset({"getitem", "index_select", "masked_select", "index", "gather"})  # some of the samples, by an index that was computed


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
    Known exceptions: containers; modules that are used through their weights; parts that only train or only eval mode calls; without parameters it is info, as are experts that got no sample of this batch, and members of a ModuleDict of which another was called.
    Source: the registry of torch.nn.Module against its recorded calls.
    """
    if not complete(evidence) or not any(c.fqn is not None for c in evidence.trace.calls):
        return
    used = called(evidence)
    read = set().union(*(sources_read(trace) for trace in traces(evidence))) | (reached(evidence) or frozenset())
    used_owners = {owner(name) for name in read}
    by_name = {m.fqn: m for m in evidence.trace.modules}
    used_kinds = _chosen_among(evidence)
    idle: list[str] = []
    bare: list[ModuleInfo] = []
    for module in evidence.trace.modules:
        below = [m for m in by_name if m == module.fqn or m.startswith(module.fqn + ".")] if module.fqn else list(by_name)
        names = {*module.aliases, module.fqn}
        if (
            names & used
            or module.is_container
            or any(m in used or m in used_owners for m in below)
            or any(_is_inside(module.fqn, i) for i in idle)
        ):
            continue
        if "parametrizations" in module.fqn or _belongs_to_stock(module.fqn, by_name):
            continue
        idle.append(module.fqn)
        owned = [p for p in evidence.trace.parameters if p.kind == "parameter" and p.fqn.startswith(module.fqn + ".")]
        if not owned:
            bare.append(module)
            continue
        alive = any(p.trainable for p in owned)
        yield Finding(
            module=module.fqn,
            severity=Severity.WARNING if alive and not any(_is_inside(module.fqn, c) for c in used_kinds) else Severity.INFO,
            message=f"{spoken(evidence, module.fqn)} ({module.kind}) is registered with {len(owned)} parameters, but was called 0 times",
            fix="call it in the forward, or remove it",
        )
    if bare:
        yield Finding(
            module=bare[0].fqn,
            severity=Severity.INFO,
            message=f"{len(bare)} modules without parameters were called 0 times (the first is {spoken(evidence, bare[0].fqn)}, {bare[0].kind})",
            fix="call them in the forward, or remove them",
        )


def _is_inside(fqn: str, other: str) -> bool:
    return fqn.startswith(other + ".")


def _belongs_to_stock(fqn: str, by_name: Mapping[str, ModuleInfo]) -> bool:
    """Whether a layer of torch's own holds it: those use their parts in their own way."""
    parts = fqn.split(".")
    above = [".".join(parts[:i]) for i in range(1, len(parts))]
    return any(by_name[a].is_stock and not by_name[a].is_container for a in above if a in by_name)


def _chosen_among(evidence: Evidence) -> set[str]:
    """The containers whose members are chosen from by the forward: a ModuleDict by its keys, a list of experts by which samples go to each."""
    found = set()
    kinds = {m.fqn: m.kind for m in evidence.trace.modules if m.is_container}
    for trace in traces(evidence):
        flow = Flow(trace)
        for i, call in enumerate(trace.calls):
            holder = next((h for h in _above(call.fqn or "") if kinds.get(h) in ("ModuleDict", "ModuleList")), None)
            if holder is None:
                continue
            maker = flow.producer(flow.data(i))
            routed = (
                maker is not None
                and operation(flow.calls[maker]) in ROUTING
                and any(t.source is not None for t in flow.calls[maker].inputs[1:])
            )
            if kinds[holder] == "ModuleDict" or routed:
                found.add(holder)
    return found


def _above(fqn: str) -> list[str]:
    parts = fqn.split(".")
    return [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
