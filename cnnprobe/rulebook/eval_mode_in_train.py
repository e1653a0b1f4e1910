"""Training in eval mode."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation_of_module
from cnnprobe.diagnosis.evidence.questions import owner, spoken, trainable, variable
from cnnprobe.records.trace import ModuleInfo
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import layers, stepping


def _loop(mode: bool) -> Mapping[str, Any]:
    from torch import nn

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        model.train(mode)
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(
        layers(
            nn.Flatten(),
            lambda: nn.Linear(64, 32),
            nn.ReLU(),
            lambda: nn.Dropout(0.5),
            lambda: nn.Linear(32, 4),
        ),
        loop,
    )


def sick() -> Mapping[str, Any]:
    """model.eval() was never undone."""
    return _loop(mode=False)


def healthy() -> Mapping[str, Any]:
    """model.train() before the step."""
    return _loop(mode=True)


@rule(
    code="CP502",
    name="eval-mode-in-train",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("train-eval-gap",),
)
def eval_mode_in_train(evidence: Evidence) -> Iterator[Finding]:
    """The training steps run with the model in eval mode.

    Why it matters: dropout does nothing and BatchNorm uses and keeps its old statistics.
    What to do: model.train() at the beginning of each epoch, and after each evaluation.
    Known exceptions: without a train_step it is info, as the mode is that of the model that was
    given; a frozen part in eval mode, of a model in whichever mode; models without dropout and
    BatchNorm.
    Source: torch.nn.Module.eval.
    """
    yield from _find_never_back(evidence)
    if not evidence.own_loop and not evidence.optimizers:
        return
    stepped = [s for s in evidence.steps if s.losses and any(e.kind == "step" for e in s.events)]
    idle = [s for s in stepped if not s.training]
    if not idle or (len(idle) < len(stepped) and stepped[-1].training):
        return
    affected = [
        m
        for m in idle[-1].trace.modules
        if (operation_of_module(m) == "dropout" and m.config.get("p"))
        or (operation_of_module(m) == "batch_norm" and m.config.get("track_running_stats"))
    ]
    used = {c.fqn for c in idle[-1].trace.calls}
    flow, learning = Flow(evidence.trace), {owner(name) for name in trainable(evidence)}
    affected = [m for m in affected if m.fqn in used and not _is_frozen(flow, learning, m)]
    if affected and (len(idle) < len(stepped) or not any(m.training for m in affected)):
        name = variable(evidence, "model")
        own = evidence.own_loop
        yield Finding(
            module=None,
            severity=None if own else Severity.INFO,
            message=(
                f"{name} is in eval mode in {len(idle)} of "
                f"{format_counted(len(stepped), 'training step')}: "
                f"{format_counted(len(affected), 'dropout or BatchNorm layer')} (the first is "
                f"{spoken(evidence, affected[0].fqn)}) "
                f"{'does' if len(affected) == 1 else 'do'} not train"
            ),
            fix=f"call {name}.train() before the training step, or after the eval() within it"
            if own
            else (
                f"call {name}.train() before diagnose, and in the loop, unless it is trained so "
                "on purpose"
            ),
            source=find_eval(evidence),
        )


def _find_never_back(evidence: Evidence) -> Iterator[Finding]:
    """The loops over epochs that leave the model in eval mode after the first one."""
    affected = [
        m
        for m in evidence.trace.modules
        if (operation_of_module(m) == "dropout" and m.config.get("p"))
        or (operation_of_module(m) == "batch_norm" and m.config.get("track_running_stats"))
    ]
    count = format_counted(len(affected), "dropout or BatchNorm layer")
    for slip in evidence.texts.slips if affected else ():
        if slip.kind == "never-back":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` stands in the loop over the epochs (line {slip.value}), and "
                    "train() in front of it alone: from the second epoch on the model is trained "
                    f"in eval mode, and {count} "
                    f"(the first is {spoken(evidence, affected[0].fqn)}) "
                    f"{'does' if len(affected) == 1 else 'do'} not train"
                ),
                fix=f"call {slip.name}.train() at the beginning of each epoch",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
            return


def _is_frozen(flow: Flow, learning: set[str], module: ModuleInfo) -> bool:
    """A BatchNorm whose weights are frozen, or a dropout between layers that are: eval mode is what
    it should be in.
    """
    if operation_of_module(module) == "batch_norm" and module.config.get("affine"):
        return module.fqn not in learning
    rows = [i for i in flow.primitives() if flow.calls[i].fqn == module.fqn]
    readers = {flow.owner(j) for i in rows for j in flow.passes_on(i)}
    return (
        bool(rows)
        and not any(o.requires_grad for i in rows for o in flow.calls[i].outputs)
        and not readers & learning
    )


def find_eval(evidence: Evidence) -> str:
    """The line of the last call in the steps that put the model into eval mode; "" where there is
    none.
    """
    events = [e for step in evidence.steps for e in step.events if e.kind == "eval"]
    return next((e.source for e in reversed(events) if e.effective), "")
