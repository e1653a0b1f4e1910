"""The best state of a training is taken for kept, and another one is."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.texts import KeptBest
from cnnprobe.rulebook.material import perceptron, stepping


def _training(*, copies: bool) -> Mapping[str, Any]:
    import copy

    model = perceptron()
    record: dict[str, Any] = {"loss": float("inf"), "state": {}}

    def by_reference(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if loss.item() < record["loss"]:
            record["loss"] = loss.item()
            record["state"] = model.state_dict()

    def by_copy(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if loss.item() < record["loss"]:
            record["loss"] = loss.item()
            record["state"] = copy.deepcopy(model.state_dict())

    return stepping(model, by_copy if copies else by_reference)


def sick() -> Mapping[str, Any]:
    """The state of the lowest loss, without a copy."""
    return _training(copies=False)


def healthy() -> Mapping[str, Any]:
    """A deep copy of it."""
    return _training(copies=True)


@rule(code="CP561", name="best-not-kept", severity=Severity.WARNING, examples=(sick, healthy))
def best_not_kept(evidence: Evidence) -> Iterator[Finding]:
    """The best weights of a training are kept by reference, or the worst are kept, or none.

    Why it matters: state_dict() gives the weights themselves, and each further step changes them:
    what is loaded at the end is the last state. A comparison in the wrong direction keeps the
    worst state, and a best value that nothing can beat, or that has taken the new one already,
    keeps none.
    What to do: copy.deepcopy(model.state_dict()), or torch.save at once; `>` for an accuracy, with
    0 to start from; `<` for a loss, with float("inf").
    Known exceptions: a state that is saved to a file at once, or with which the training ends. Only
    the text of the step and of the file that asks is read, and whether small or large is good is
    taken from the words loss, error, acc, iou and the like in the names.
    Source: PyTorch tutorials, "Saving and Loading Models": "best_model_state = model.state_dict()
    returns a reference to the state and not its copy".
    """
    for kept in evidence.texts.kept:
        if kept.kind == "alias":
            continue
        message, fix = _describe(kept)
        yield Finding(
            module=None,
            message=message,
            fix=fix,
            source=kept.source,
            kind=kept.kind,
            subject=kept.name,
        )


def _describe(kept: KeptBest) -> tuple[str, str]:
    if kept.kind == "reference":
        is_module = not kept.value.endswith(")")
        copied = kept.value if is_module or "state_dict" in kept.value else "model.state_dict()"
        message = (
            f"`{kept.text.splitlines()[0]}` keeps {kept.value} itself and no copy: the next step "
            f"changes {kept.name}, which ends as the last state and not as the best one"
        )
        return message, f"{kept.name} = copy.deepcopy({copied})"
    if kept.kind == "direction":
        return (
            f"`{kept.text}` is true when the model gets worse: {kept.name} keeps the worst value",
            "turn the comparison round: > for an accuracy or score, < for a loss or error",
        )
    if kept.kind == "overtaken":
        return (
            f"`{kept.text}` is never true: `{kept.value}` has taken the new value already",
            f"compare first, and change {kept.name} in that branch alone",
        )
    start = "0.0" if ">" in kept.text else 'float("inf")'
    return (
        f"`{kept.text}` is never true: {kept.name} starts at {kept.value}, and nothing is better",
        f"{kept.name} = {start}",
    )
