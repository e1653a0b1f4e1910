"""A validation with the model in train mode."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, argument, operation, operation_of_module
from cnnprobe.rulebook.material import layers, stepping


def _loop(turns: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    def evaluating(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        model.train()
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            return (model(inputs).argmax(1) == targets).float().mean().item()

    def forgetful(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        model.train()
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            return (model(inputs).argmax(1) == targets).float().mean().item()

    model = layers(
        nn.Flatten(), lambda: nn.Linear(64, 32), nn.ReLU(), lambda: nn.Dropout(0.5),
        lambda: nn.Linear(32, 4),
    )  # fmt: skip
    return stepping(model, evaluating if turns else forgetful)


def sick() -> Mapping[str, Any]:
    """The accuracy is that of a model with dropout."""
    return _loop(turns=False)


def healthy() -> Mapping[str, Any]:
    """eval() before it, train() before the next step."""
    return _loop(turns=True)


@rule(
    code="CP563", name="measured-in-train-mode", severity=Severity.WARNING, examples=(sick, healthy)
)
def measured_in_train_mode(evidence: Evidence) -> Iterator[Finding]:
    """A validation compares the output with labels under no_grad, and the model is in train mode.

    Why it matters: dropout is on, so that the number is worse than the model; BatchNorm takes the
    statistics of the validation batch, so that it depends on the batch, and learns from it.
    What to do: model.eval() before the validation, and model.train() before the next epoch.
    Known exceptions: one batch that is measured in passing, outside of the step and of a loop over
    batches, is info; models without dropout and BatchNorm; several outputs that are stacked (Monte
    Carlo dropout), and targets for the training that are made before its backward. Only the text of
    the user's files is read: a function that nothing there calls is not judged.
    Source: torch.nn.Module.eval; PyTorch, "Autograd mechanics": no_grad "is orthogonal to" it.
    """
    kinds = dict.fromkeys(_list_kinds(evidence))
    for measured in evidence.texts.measured if kinds else ():
        where = f" in {measured.function}" if measured.function else ""
        model = measured.model
        yield Finding(
            module=None,
            severity=None if measured.is_loop else Severity.INFO,
            message=(
                f"`{measured.text}`{where} is compared with labels under no_grad, and nothing "
                f"calls {model}.eval() before: {' and '.join(_EFFECTS[kind] for kind in kinds)}"
            ),
            fix=f"{model}.eval() before it, {model}.train() before the next epoch",
            source=measured.source,
            subject=measured.function,
        )


_EFFECTS = {
    "dropout": "dropout is on",
    "batch_norm": "BatchNorm takes the statistics of each batch and learns from it",
}


def _list_kinds(evidence: Evidence) -> Iterator[str]:
    """What does something else in train mode: layers, and functions that dropped values."""
    for info in evidence.trace.modules:
        kind = operation_of_module(info)
        if (kind == "dropout" and info.config.get("p")) or (
            kind == "batch_norm" and info.config.get("track_running_stats")
        ):
            yield kind
    for call in evidence.trace.calls:
        is_function = call.fqn is None and operation(call) == "dropout"
        if is_function and argument(call, "p", 0.5) and argument(call, "training", True) is True:
            yield "dropout"
