"""What is set on a torch object under a name that torch does not read."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, IdleAttribute
from cnnprobe.diagnosis.evidence.questions import spoken, variable
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron


def _frozen(attribute: str) -> Mapping[str, Any]:
    model = perceptron()
    for parameter in model[1].parameters():
        setattr(parameter, attribute, False)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """`parameter.require_grad = False`."""
    return _frozen("require_grad")


def healthy() -> Mapping[str, Any]:
    """`parameter.decay = False`, a mark of the user's own."""
    return _frozen("decay")


@rule(
    code="CP530",
    name="idle-attribute",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "no-zero-grad",
        "step-missing",
        "backward-missing",
        "eval-mode-in-train",
        "frozen-bn-drift",
        "frozen-params",
        "unchanged-weights",
    ),
)
def idle_attribute(evidence: Evidence) -> Iterator[Finding]:
    """The code sets an attribute that nothing reads, where torch reads another of nearly the same
    name; it names a method and does not call it; or a module has a backward of its own, which
    autograd does not call.

    Why it matters: Python takes any attribute. Nothing is frozen, no rate is changed, no mode is
    switched, and no error says so.
    What to do: requires_grad of a parameter, requires_grad_(...) and train(...) of a module, the
    groups of an optimizer: `for group in optimizer.param_groups: group["lr"] = ...`; for a backward
    of one's own, a torch.autograd.Function that the forward calls by apply.
    Known exceptions: attributes that the code of the model, the step, the optimizer or the
    scheduler reads; those that a class sets on itself; those that say what is the case anyway; a
    backward that code of the user's calls, or that calls the backward of a loss.
    Source: torch.nn.Module.requires_grad_, torch.nn.Module.train, torch.optim.Optimizer: "per
    parameter options".
    """
    for idle in evidence.idle:
        message, fix = _describe(evidence, idle)
        yield Finding(
            module=_find_module(idle),
            message=message,
            fix=fix,
            source=idle.source,
            kind=idle.holder,
            subject=say_setting(idle),
        )


def say_setting(idle: IdleAttribute) -> str:
    """What was set, as code: "requiresGrad = False"."""
    return f"{idle.attribute} = {idle.value}"


def say_fix(evidence: Evidence, idle: IdleAttribute) -> str:
    """What to write in its place."""
    return _describe(evidence, idle)[1]


def _find_module(idle: IdleAttribute) -> str | None:
    if idle.holder == "parameter":
        return idle.owners[0].rpartition(".")[0]
    return idle.owners[0] if idle.holder in ("module", "method") else None


def _describe(evidence: Evidence, idle: IdleAttribute) -> tuple[str, str]:
    """What is said of it, and what to write in its place."""
    match idle.holder:
        case "parameter":
            return _of_parameter(idle)
        case "module":
            return _of_module(evidence, idle)
        case "statement":
            return _of_statement(evidence, idle)
        case "method":
            return _of_method(idle)
    place = idle.owners[0]
    if idle.holder == "group":
        said = f'group["{idle.attribute}"] = {idle.value} in {place}'
    else:
        said = f"{place}.{idle.attribute} = {idle.value}"
    message = f'{said} has no effect: torch reads group["{idle.meant}"], which is {idle.actual}'
    return message, f'for group in {place}.param_groups: group["{idle.meant}"] = {idle.wanted}'


def _of_parameter(idle: IdleAttribute) -> tuple[str, str]:
    count = format_counted(len(idle.owners), "parameter")
    more = "" if len(idle.owners) == 1 else f" and {len(idle.owners) - 1} more"
    message = (
        f"{idle.attribute} = {idle.value} is set on {count} ({idle.owners[0]}{more}), but torch "
        f"reads {idle.meant}, which is {idle.actual}"
    )
    return message, f"parameter.{idle.meant} = {idle.wanted}"


def _of_module(evidence: Evidence, idle: IdleAttribute) -> tuple[str, str]:
    place = spoken(evidence, idle.owners[0])
    others = format_counted(len(idle.owners) - 1, "other module")
    more = "" if len(idle.owners) == 1 else f" (and of {others})"
    if idle.attribute == idle.meant == "requires_grad":
        seen = f"a module has no requires_grad, and that of its parameters is {idle.actual}"
    elif idle.attribute in ("train", "eval"):
        seen = f"it hides the method {idle.attribute}(), and {place}.training is {idle.actual}"
    elif idle.meant == "requires_grad":
        seen = f"torch reads requires_grad of its parameters, which is {idle.actual}"
    else:
        seen = f"torch reads {idle.meant}, which is {idle.actual}"
    calls = {"requires_grad": "requires_grad_", "training": "train"}
    fix = (
        f"{place}.{calls[idle.meant]}({idle.wanted})"
        if idle.meant in calls
        else f"{place}.{idle.meant} = {idle.wanted}"
    )
    return f"{place}.{idle.attribute} = {idle.value} has no effect{more}: {seen}", fix


def _of_statement(evidence: Evidence, idle: IdleAttribute) -> tuple[str, str]:
    owner = {"train": "model", "eval": "model", "requires_grad_": "model", "backward": "loss"}
    place = variable(evidence, owner.get(idle.attribute, "optimizer"))
    message = (
        f"the statement names {idle.attribute} without parentheses: it calls nothing and has no "
        "effect"
    )
    return message, f"add the parentheses, as in {place}.{idle.meant}"


def _of_method(idle: IdleAttribute) -> tuple[str, str]:
    message = (
        f"{idle.actual}.backward is never called: autograd knows the operations of its forward, "
        "and calls the backward of a torch.autograd.Function alone"
    )
    fix = (
        "write it as a torch.autograd.Function with static methods forward(ctx, x) and "
        f"backward(ctx, gradient), and call its apply in {idle.actual}.forward"
    )
    return message, fix
