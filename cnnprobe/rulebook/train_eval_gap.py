"""A model that is another one in eval mode."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import modules_of, spoken
from cnnprobe.rulebook.material import classifying, images, labels, layers

TRACKED = 50  # batches after which running statistics have settled: 0.9**50 = 0.005
SETTLED = 0.01  # share of the first running statistics that is left
TIMES = 3.0  # eval loss over train loss of the same batch
MORE = 0.5  # and this much higher, in nats


def _net(momentum: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        lambda: nn.Conv2d(1, 8, 3, padding=1),
        lambda: nn.BatchNorm2d(8, momentum=momentum),
        nn.ReLU(),
        nn.Flatten(),
        lambda: nn.Linear(512, 4),
    )
    inputs, optimizer = 5 + 0.3 * images(), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return classifying(model, inputs=inputs, optimizer=optimizer)


def sick() -> Mapping[str, Any]:
    """Trained for 60 steps with a momentum of 5e-4."""
    return _net(5e-4)


def healthy() -> Mapping[str, Any]:
    """Trained for 60 steps with torch's own momentum."""
    return _net(0.1)


@rule(code="CP605", name="train-eval-gap", severity=Severity.WARNING, examples=(sick, healthy))
def train_eval_gap(evidence: Evidence) -> Iterator[Finding]:
    """The same batch has a far higher loss in eval mode than in train mode, although BatchNorm had
    time to settle.

    Why it matters: the running statistics are not those of the data, so that the deployed model is
    not the trained one.
    What to do: check momentum, batch size, and that train and eval data are normalised alike;
    recompute the statistics.
    Known exceptions: fewer than 50 batches tracked; the same batch is compared, so that overfitting
    plays no part. It is info where the momentum leaves less than 1% of the first values: the
    weights then move faster than the statistics, as in the middle of training at a high rate, or
    the batches differ.
    Source: Wu and Johnson 2021, arXiv:2105.07576, "Rethinking Batch in BatchNorm".
    """
    evaluated, trained = evidence.probes.evaluation_loss, evidence.probes.training_loss
    if (
        evaluated is None
        or trained is None
        or not evaluated > TIMES * trained
        or not evaluated > trained + MORE
    ):
        return
    for module in modules_of(evidence, "batch_norm"):
        tracked = evidence.values.get(f"{module.fqn}.num_batches_tracked")
        if (
            tracked is not None
            and tracked.high >= TRACKED
            and module.config.get("track_running_stats")
        ):
            momentum = module.config.get("momentum")
            has_settled = isinstance(momentum, float) and (1 - momentum) ** tracked.high < SETTLED
            yield Finding(
                module=module.fqn,
                severity=Severity.INFO if has_settled else None,
                message=(
                    f"the loss of the same batch is {evaluated:.3g} in eval mode and "
                    f"{trained:.3g} in train mode (more than {TIMES:g} times), after "
                    f"{tracked.high:.0f} batches; momentum is {momentum}"
                ),
                fix="see whether the gap stays at a lower learning rate; recompute the statistics"
                if has_settled
                else (
                    f"check momentum of {spoken(evidence, module.fqn)}, and that both modes see "
                    "equally normalised data"
                ),
            )
            return
