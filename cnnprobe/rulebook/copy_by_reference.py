"""A copy of the weights that is no copy."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def sick() -> Mapping[str, Any]:
    """Weights are pulled back to where they began, and where they are is taken for it."""
    model = perceptron()
    anchor = [p.data for p in model.parameters()]

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        far = sum((p - a).square().sum() for p, a in zip(model.parameters(), anchor, strict=True))
        (loss_fn(model(inputs), targets) + far).backward()
        optimizer.step()

    return stepping(model, loop)


def healthy() -> Mapping[str, Any]:
    """The same with a clone of each."""
    model = perceptron()
    start = [p.data.clone() for p in model.parameters()]

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        far = sum((p - a).square().sum() for p, a in zip(model.parameters(), start, strict=True))
        (loss_fn(model(inputs), targets) + far).backward()
        optimizer.step()

    return stepping(model, loop)


@rule(code="CP562", name="copy-by-reference", severity=Severity.WARNING, examples=(sick, healthy))
def copy_by_reference(evidence: Evidence) -> Iterator[Finding]:
    """A variable that is named as an earlier state, an average or a teacher holds the weights that
    are trained.

    Why it matters: an assignment, state_dict() and .data copy nothing. The teacher is the student,
    the average the newest weights, the distance to the old weights always 0.
    What to do: copy.deepcopy(model), copy.deepcopy(model.state_dict()), or .clone() of each.
    Known exceptions: a state that is read before the weights change; a program that gives .data
    other memory. Only the text of the step's files and of the file that asks is read, and only
    names with words as old, before, initial, ema, teacher, backup.
    Source: torch.nn.Module.state_dict, "The returned object is a shallow copy. It contains
    references to the module's parameters and buffers."
    """
    for kept in evidence.texts.kept:
        if kept.kind == "alias":
            holder = kept.value.split(".state_dict")[0].split(".parameters")[0]
            holder = holder.split(".named_parameters")[0]
            is_state = holder == kept.value or "state_dict" in kept.value
            fix = f"copy.deepcopy({kept.value})" if is_state else "a .clone() of each parameter"
            yield Finding(
                module=None,
                message=(
                    f"`{kept.text.splitlines()[0]}` copies nothing: {kept.name} holds the weights "
                    f"of {holder} themselves and changes with each "
                    "step"
                ),
                fix=f"{kept.name} = {fix}",
                source=kept.source,
                subject=kept.name,
            )
