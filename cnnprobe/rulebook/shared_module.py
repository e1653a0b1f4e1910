"""One layer where copies were meant."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation_of_module
from cnnprobe.diagnosis.evidence.questions import owner
from cnnprobe.rulebook.material import classifying


def _net(copies: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    blocks = (
        [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(3)] if copies else [block] * 3
    )
    return classifying(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), *blocks, nn.Linear(32, 4))
    )


def sick() -> Mapping[str, Any]:
    """`[block] * 3`."""
    return _net(copies=False)


def healthy() -> Mapping[str, Any]:
    """`[make_block() for _ in range(3)]`."""
    return _net(copies=True)


@rule(
    code="CP310",
    name="shared-module",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("tied-weights",),
)
def shared_module(evidence: Evidence) -> Iterator[Finding]:
    """One layer stands at several places of a chain, or beside itself, under several names.

    Why it matters: `[layer] * 3` makes three references to one layer; the network has a third of
    the weights that it seems to have, and three heads of one input give the same output.
    What to do: make a new layer for each place: [Layer() for _ in range(3)], or copy.deepcopy.
    Known exceptions: layers without parameters; an encoder or a head that is called on several
    inputs (siamese, a pyramid), unless the text makes it as [Layer(...)] * n; a loop that calls
    one name again and again.
    Source: Python, "list * n" repeats references.
    """
    flow = Flow(evidence.trace)
    repeated = dict(evidence.texts.repeated)
    owners = {owner(p.fqn) for p in evidence.trace.parameters if p.kind == "parameter"}
    for module in evidence.trace.modules:
        if (
            not module.aliases
            or operation_of_module(module) == "batch_norm"
            or not any(o == module.fqn or o.startswith(module.fqn + ".") for o in owners)
        ):
            continue
        if any(
            module.fqn.startswith(m.fqn + ".")
            for m in evidence.trace.modules
            if m.aliases and m.fqn
        ):
            continue
        rows = [i for i, c in enumerate(flow.calls) if c.fqn == module.fqn and not c.recomputed]
        made = [
            {t.source for t in flow.calls[i].outputs if isinstance(t.source, int)} for i in rows
        ]
        chained = any(made[0] & (flow.before(i) | {i}) - {i} for i in rows[1:]) if made else False
        siblings = {name.rpartition(".")[0] for name in (module.fqn, *module.aliases)}
        alike = _count_alike(flow, rows)
        line = repeated.get(next(iter(siblings)), "")
        if len(siblings) == 1 and (chained or alike > 1 or (line and len(rows) > 1)):
            names = ", ".join((module.fqn, *module.aliases))
            times = (
                f"{len(rows)} times in a row"
                if chained
                else f"{alike} times on one input"
                if alike > 1
                else f"{len(rows)} times"
            )
            yield Finding(
                module=module.fqn,
                message=(f"{names} are one {module.kind}, called {times} with the same weights"),
                fix="make a new one for each place, or copy.deepcopy it",
                source=line,
            )


def _count_alike(flow: Flow, rows: list[int]) -> int:
    """How many of the calls get the very same tensors."""
    given = Counter(tuple((t.source, t.shape, t.path) for t in flow.calls[i].inputs) for i in rows)
    known = (n for key, n in given.items() if any(isinstance(source, int) for source, *_ in key))
    return max(known, default=0)
