"""A training that ends too early: after the first batch, or by a count that is never set back."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def sick() -> Mapping[str, Any]:
    """`return` is indented too far."""

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        total = 0.0
        for x, y in zip(inputs.split(4), targets.split(4), strict=True):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            return total
        return None

    return stepping(perceptron(), loop)


def healthy() -> Mapping[str, Any]:
    """It stands behind the loop."""

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        total = 0.0
        for x, y in zip(inputs.split(4), targets.split(4), strict=True):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total

    return stepping(perceptron(), loop)


@rule(code="CP542", name="loop-cut-short", severity=Severity.WARNING, examples=(sick, healthy))
def loop_cut_short(evidence: Evidence) -> Iterator[Finding]:
    """A loop that trains ends in its first round, or each step takes the first batch of a loader;
    or an early stopping counts on where the model has improved.

    Why it matters: all batches but one are never trained on, and the loss of that one falls well;
    a patience that is not set back is used up by all bad epochs together.
    What to do: indent the return less; loop over the loader, or call iter once, before the loop;
    set the count to 0 where a better value is kept.
    Known exceptions: a return or break under a condition, and one behind the loop. A loader that
    shuffles gives another first batch each time: that is info.
    Source: the text of the training step; torch.utils.data.DataLoader: each iter() begins anew.
    """
    yield from _list_counts(evidence)
    yield from _list_behind(evidence)
    for loop in evidence.texts.loops:
        if loop.kind == "new-order":
            yield Finding(
                module=None,
                severity=Severity.INFO,
                message=(
                    f"each step calls {loop.text}, which begins the loader anew: the batch is one "
                    "of a new order, so that no epoch has all samples once"
                ),
                fix="loop over the loader: for batch in loader",
                source=loop.source,
                kind=loop.kind,
            )
        elif loop.kind == "first-batch":
            yield Finding(
                module=None,
                message=(
                    f"each step calls {loop.text}, which begins the loader anew: it trains on a "
                    "first batch every time, and never on the others"
                ),
                fix="loop over the loader: for batch in loader, or call iter() once, before the "
                "loop",
                source=loop.source,
                kind=loop.kind,
            )
        else:
            yield Finding(
                module=None,
                message=(
                    f"the loop of line {loop.loop} ends with `{loop.text}` in its first round: it "
                    "trains on the first batch alone"
                ),
                fix=f"indent `{loop.text}` less, so that it stands behind the loop"
                if loop.kind == "return"
                else "remove the break, or put it under a condition",
                source=loop.source,
                kind=loop.kind,
            )


def _list_counts(evidence: Evidence) -> Iterator[Finding]:
    """The early stoppings whose patience an improvement does not renew."""
    for slip in evidence.texts.slips:
        if slip.kind == "patience":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` ends the training by {slip.name}, which an improvement of "
                    f"{slip.value} does not set back: all epochs without one count, also those "
                    "before the last improvement"
                ),
                fix=f"{slip.name} = 0 where {slip.value} gets a better value",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )


def _list_behind(evidence: Evidence) -> Iterator[Finding]:
    """The backward passes that stand behind the loop over the batches."""
    for slip in evidence.texts.slips:
        if slip.kind == "last-batch":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` stands behind the loop over the batches (line {slip.value}), "
                    f"which gives {slip.name} a new value in each round: only the last batch of an "
                    "epoch is trained on"
                ),
                fix=f"move `{slip.text}` and the optimizer's step into the loop",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
