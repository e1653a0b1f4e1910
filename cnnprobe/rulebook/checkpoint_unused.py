"""A checkpoint that was loaded and whose weights are not in the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow
from cnnprobe.diagnosis.evidence.initial import is_fresh
from cnnprobe.diagnosis.evidence.questions import spoken, trainable
from cnnprobe.diagnosis.evidence.texts import LoadStatement
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, perceptron

LEAST = 2  # layers that hold torch's own random numbers


def _fit(prefix: str) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, checkpoint: Mapping[str, Any]) -> None:
            super().__init__()
            self.body = perceptron()
            self.load_state_dict(checkpoint, strict=False)

        def forward(self, x: Any) -> Any:
            return self.body(x)

    trained = {f"{prefix}body.{k}": v + 0.05 for k, v in perceptron().state_dict().items()}
    torch.manual_seed(1)
    return classifying(Net(trained))


def sick() -> Mapping[str, Any]:
    """The names of the checkpoint begin with "module."."""
    return _fit("module.")


def healthy() -> Mapping[str, Any]:
    """They are those of the model."""
    return _fit("")


@rule(
    code="CP329",
    name="checkpoint-unused",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def checkpoint_unused(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint is loaded, and the layers hold the random numbers of their initialisation.

    Why it matters: strict=False says nothing where no name fits, and an initialisation behind the
    load overwrites it; the model trains from scratch.
    What to do: look at missing_keys and unexpected_keys of what load_state_dict returns; draw the
    weights before the load.
    Known exceptions: the last layer alone, which a new task replaces; weights that are not uniform
    within torch's own bound; layers that are trained, where no load is seen to leave them out. Only
    the text of the file that asks and of the user's classes is read.
    Source: torch.nn.Module.load_state_dict, "strict: whether to strictly enforce that the keys
    match"; torch.nn.Linear and Conv2d initialise from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
    """
    fresh, layers = _list_fresh(evidence)
    said = False
    for load in evidence.texts.loads:
        if load.kind == "drawn-anew":
            yield Finding(
                module=None,
                message=(
                    f"`{load.after}` draws the weights anew that `{load.text}` has loaded before: "
                    "what it draws is not that of the checkpoint"
                ),
                fix=f"move `{load.after}` in front of the load",
                source=load.source,
                kind="drawn-anew",
                subject=load.holder,
            )
        elif load.kind == "itself":
            yield Finding(
                module=None,
                message=(
                    f"`{load.text}` loads the weights of {load.holder} into {load.holder}: it "
                    "changes nothing"
                ),
                fix=f"load the state_dict() of the model that {load.holder} is to be equal to",
                source=load.source,
                kind="itself",
                subject=load.holder,
            )
        elif load.kind == "meant":
            kept = [name for name in fresh if _is_frozen(evidence, name)]
            is_first = len(kept) >= LEAST and kept[0] == layers[0]
            if is_first and _is_of(evidence, load) and not said:
                said = True
                yield _say_frozen(evidence, load, kept)
        elif len(fresh) >= LEAST and fresh[0] == layers[0] and _is_of(evidence, load):
            said = True
            yield Finding(
                module=fresh[0],
                message=(
                    f"`{load.text}` has left {len(fresh)} of "
                    f"{format_counted(len(layers), 'layer')} at their random initialisation, the "
                    f"first is {spoken(evidence, fresh[0])}: strict=False says nothing of names "
                    "that do not fit"
                ),
                fix=load.fit
                or "print what load_state_dict returns, and make the names fit: strip a prefix as "
                "'module.', load the weights of a part into that part, or load "
                "checkpoint['state_dict']",
                source=load.source,
                kind="lenient",
                subject=load.holder,
            )


def _is_frozen(evidence: Evidence, module: str) -> bool:
    return f"{module}.weight" not in trainable(evidence)


def _say_frozen(evidence: Evidence, load: LoadStatement, frozen: list[str]) -> Finding:
    return Finding(
        module=frozen[0],
        message=(
            f"{format_counted(len(frozen), 'layer')} of the model "
            f"{'is' if len(frozen) == 1 else 'are'} frozen at the random numbers of torch's "
            f"initialisation, the first is {spoken(evidence, frozen[0])}: `{load.text}` has not "
            "given them the weights of a checkpoint"
        ),
        fix=(
            "see what that line writes: the weights have to be copied into the layer itself, by "
            "load_state_dict or copy_, under names that fit"
        ),
        source=load.source,
        kind="frozen",
        subject=load.holder,
    )


def _list_fresh(evidence: Evidence) -> tuple[list[str], list[str]]:
    """The layers of weights with torch's own random numbers, and all, in the order of the calls."""
    flow = Flow(evidence.trace)
    calls = [flow.calls[i].fqn for i in flow.primitives(PROJECTIONS)]
    layers = [n for n in dict.fromkeys(calls) if n is not None and f"{n}.weight" in evidence.values]
    return [name for name in layers if is_fresh(evidence, name)], layers


def _is_of(evidence: Evidence, load: LoadStatement) -> bool:
    """Whether the statement loads the model that is asked about, or a part of it."""
    names = {evidence.names.get("model", "model"), "model", "net", "self"}
    return load.holder.split(".")[0] in names
