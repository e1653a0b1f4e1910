"""Parameters that are frozen where something before or after them is trained."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.initial import is_fresh
from cnnprobe.diagnosis.evidence.questions import loss_calls, owner, spoken, variable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron

BODY = 2  # layers, at least, of what is frozen before a head


def _training(frozen: tuple[int, ...]) -> Mapping[str, Any]:
    model = perceptron()
    for i in frozen:
        model[i].requires_grad_(False)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """The head is frozen at its random initialisation, the backbone is trained."""
    return _training((3,))


def healthy() -> Mapping[str, Any]:
    """The backbone is frozen, the head is trained."""
    return _training((1,))


@rule(
    code="CP306",
    name="frozen-params",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "frozen-in-optimizer", "loss-not-decreasing"),
)
def frozen_params(evidence: Evidence) -> Iterator[Finding]:
    """A layer is frozen at its random initialisation although layers before it are trained or were
    pretrained, or an embedding although layers after it are, or nothing is trainable at all; as
    info, a whole body that is frozen so.

    Why it matters: the others have to work around random weights that never change.
    What to do: requires_grad_(True) for it, or freeze what comes before instead;
    Embedding.from_pretrained(table, freeze=False) where the table is to be trained.
    Known exceptions: a frozen backbone; a model that is mostly frozen, but for the layer that gives
    the prediction; frozen weights that are not those of torch's initialisation
    (trained, or fixed filters); random features with no pretrained layer before them; copies of
    another weight; adapters beside a frozen layer; a table with a structure, as of
    words or of positions; a layer that the loop freezes in one phase and steps in another, as a
    critic while it trains the generator.
    Source: torch.nn.Linear and Conv2d initialise from U(-1/sqrt(fan_in), 1/sqrt(fan_in));
    torch.nn.Embedding.from_pretrained, "freeze: True by default"; Marchenko & Pastur 1967 on the
    spectrum of random numbers.
    """
    own = [p for p in evidence.trace.parameters if p.kind == "parameter"]
    is_stepped = any(change > 0 for step in evidence.steps for change in step.stepped.values())
    if is_stepped and not any(p.trainable for p in own):
        return  # frozen by the loop itself at its end, as a critic while its generator is trained
    if own and not any(p.trainable for p in own) and (evidence.optimizers or evidence.steps):
        yield Finding(
            module="",
            severity=Severity.ERROR,
            message=f"0 of the model's {format_counted(len(own), 'parameter')} are trainable",
            fix=f"{variable(evidence, 'model')}.requires_grad_(True), at least for its head",
        )
        return
    flow = Flow(evidence.trace)
    trained = {owner(p.fqn) for p in own if p.trainable and len(p.shape) > 1}
    frozen = {owner(p.fqn) for p in own} - {owner(p.fqn) for p in own if p.trainable}
    frozen -= {
        owner(name) for step in evidence.steps for name, by in step.stepped.items() if by > 0
    }
    heads = {
        flow.calls[loss.origin].fqn for loss in loss_calls(evidence) if loss.origin is not None
    }
    mostly = len(frozen) >= len(trained) + 2  # a design, but for the layer that predicts
    if not mostly:
        yield from _find_frozen_tables(evidence, flow, frozen, trained)
    yield from _find_late_layers(evidence, flow, frozen, trained)
    yield from _find_random_body(evidence, flow, frozen, trained)
    for i in flow.primitives(PROJECTIONS):
        module = flow.calls[i].fqn
        if module is None or module not in frozen or not is_fresh(evidence, module):
            continue
        if mostly and module not in heads:
            continue
        before = {flow.calls[j].fqn for j in flow.before(i)}
        if before & trained and not _find_beside(flow, i) & trained:
            yield Finding(
                module=module,
                message=(
                    f"{spoken(evidence, module)} is frozen at its random initialisation, while "
                    f"{format_counted(len(before & trained), 'layer')} before it "
                    f"{'is' if len(before & trained) == 1 else 'are'} trained"
                ),
                fix=f"{spoken(evidence, module)}.requires_grad_(True)",
            )


def _find_beside(flow: Flow, i: int) -> set[str | None]:
    """The layers that read what this one reads."""
    source = flow.calls[i].inputs[0].source if flow.calls[i].inputs else None
    rows = flow.readers.get(source, ()) if isinstance(source, int) else ()
    return {flow.calls[j].fqn for j in rows}


def _find_frozen_tables(
    evidence: Evidence, flow: Flow, frozen: set[str], trained: set[str]
) -> Iterator[Finding]:
    """Embeddings of random numbers that are frozen, while what reads them is trained."""
    seen: set[str] = set()
    for i in flow.primitives({"embedding", "embedding_bag"}):
        module = flow.owner(i)
        weight = evidence.values.get(f"{module}.weight")
        if module in seen or module not in frozen or weight is None or not weight.random:
            continue
        after = {flow.owner(j) for j in flow.after(i)} & trained
        if after:
            seen.add(module)
            place = spoken(evidence, module)
            yield Finding(
                module=module,
                message=(
                    f"{place} is frozen, and its {weight.shape[0]} x {weight.shape[1]} table holds "
                    f"random numbers: 0 of them are trained, while "
                    f"{format_counted(len(after), 'layer')} after it "
                    f"{'is' if len(after) == 1 else 'are'}"
                ),
                fix=(f"{place}.requires_grad_(True), or freeze=False in Embedding.from_pretrained"),
            )


def _find_late_layers(
    evidence: Evidence, flow: Flow, frozen: set[str], trained: set[str]
) -> Iterator[Finding]:
    """Layers of random numbers that are frozen with the trained ones before them, as by a pattern
    of names that fits more than was meant.
    """
    seen: set[str] = set()
    for i in flow.primitives(PROJECTIONS):
        module = flow.calls[i].fqn
        if module is None or module not in frozen or module in seen:
            continue
        if not is_fresh(evidence, module) or _is_copy(evidence, module):
            continue
        before = {n for j in flow.before(i) if (n := flow.calls[j].fqn) is not None}
        kept = [n for n in before & frozen if _is_pretrained(evidence, n)]
        after = {flow.owner(j) for j in flow.after(i)} & trained
        if not kept or not after or before & trained or _is_beside(flow, i):
            continue
        seen.add(module)
        place = spoken(evidence, module)
        yield Finding(
            module=module,
            message=(
                f"{place} is frozen at its random initialisation, behind "
                f"{format_counted(len(kept), 'frozen layer')} with other weights, as of a "
                f"checkpoint; {format_counted(len(after), 'layer')} after it "
                f"{'is' if len(after) == 1 else 'are'} trained"
            ),
            fix=f"{place}.requires_grad_(True), or a narrower pattern where names are frozen",
        )


def _find_random_body(
    evidence: Evidence, flow: Flow, frozen: set[str], trained: set[str]
) -> Iterator[Finding]:
    """A body that is frozen as torch has drawn it, before a head that is trained."""
    calls = [flow.calls[i].fqn for i in flow.primitives(PROJECTIONS)]
    layers = [n for n in dict.fromkeys(calls) if n is not None and f"{n}.weight" in evidence.values]
    body = list(itertools.takewhile(lambda name: name in frozen, layers))
    after = set(layers) - set(body)
    if len(body) < BODY or not after <= trained or not after or evidence.texts.unfreezes:
        return
    if all(is_fresh(evidence, name) for name in body) or _has_new_statistics(evidence, frozen):
        yield Finding(
            module=body[0],
            severity=Severity.INFO,
            message=(
                f"the first {len(body)} layers are frozen at their random initialisation, and only "
                f"{format_counted(len(after), 'layer')} behind them "
                f"{'is' if len(after) == 1 else 'are'} trained: it reads random features"
            ),
            fix="load pretrained weights before they are frozen, or let them train",
            kind="body",
        )


def _has_new_statistics(evidence: Evidence, frozen: set[str]) -> bool:
    """Whether the frozen BatchNorm layers have never seen a batch."""
    values = [
        (evidence.values.get(f"{name}.running_mean"), evidence.values.get(f"{name}.running_var"))
        for name in frozen
    ]
    known = [(mean, var) for mean, var in values if mean is not None and var is not None]
    return bool(known) and all(
        mean.low == mean.high == 0 and var.low == var.high == 1 for mean, var in known
    )


def _is_pretrained(evidence: Evidence, module: str) -> bool:
    weight = evidence.values.get(f"{module}.weight")
    return weight is not None and len(weight.shape) > 1 and not is_fresh(evidence, module)


def _is_copy(evidence: Evidence, module: str) -> bool:
    """Whether another weight has the very same numbers: that of a target network, which follows."""
    own = evidence.values[f"{module}.weight"]
    return any(
        (value.shape, value.norm, value.low) == (own.shape, own.norm, own.low)
        for name, value in evidence.values.items()
        if name != f"{module}.weight"
    )


def _is_beside(flow: Flow, index: int) -> bool:
    """Whether another layer reads the same input, as beside the first matrix of an adapter."""
    given = flow.data(index)
    source = flow.producer(given)
    readers = [] if source is None else flow.readers.get(source, [])
    return any(r != index and operation(flow.calls[r]) in PROJECTIONS for r in readers)
