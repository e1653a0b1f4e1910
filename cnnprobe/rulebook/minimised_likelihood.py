"""A likelihood that is minimised."""

import linecache
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.loss_terms import (
    TermKind,
    find_factors_of_likelihood,
    find_loss_terms,
    is_maximised,
)
from cnnprobe.diagnosis.evidence.questions import stat
from cnnprobe.rulebook.material import perceptron, stepping

# What a factor is called that is to become larger.
REWARD = re.compile(r"rew|adv|return|(^|_)(ret|rets|r|R|G|gae|delta|td)(s|_|\b)")
COST = re.compile(r"cost|penal|regret|loss", re.IGNORECASE)


def _loop(sign: float) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        import torch

        optimizer.zero_grad()
        likelihood = torch.log_softmax(model(inputs), 1)[torch.arange(len(targets)), targets]
        loss: Any = sign * likelihood.mean()
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The log-probability of the labels is minimised."""
    return _loop(1.0)


def healthy() -> Mapping[str, Any]:
    """Minus it is."""
    return _loop(-1.0)


@rule(
    code="CP416",
    name="minimised-likelihood",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="loss-sign",
    explains=(
        "minimum-elsewhere",
        "negative-loss",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "exploding-gradient",
    ),
)
def minimised_likelihood(evidence: Evidence) -> Iterator[Finding]:
    """The loss is a log-likelihood, or the log-probability of actions times their rewards, and the
    optimizer makes it smaller.

    Why it matters: the labels become less likely with each step, and the loss falls without end;
    a policy learns to avoid what is rewarded.
    What to do: put a minus before it.
    Known exceptions: an optimizer with maximize=True; only a loss below 0 is judged. Factors of
    either sign are judged where the line of the product calls them rewards, returns or advantages.
    Source: torch.nn.NLLLoss, the negative log likelihood loss.
    """
    if is_maximised(evidence):
        return
    flow = Flow(evidence.trace)
    for each in find_loss_terms(evidence, flow):
        value = each.loss.value
        if (
            each.term is TermKind.LIKELIHOOD
            and not each.is_negated
            and value is not None
            and value < 0
            and not _has_both_signs(flow, each.index)
        ):
            yield Finding(
                module=None,
                message=(
                    f"the loss is a log-likelihood without a minus: {value:.3g}, and the "
                    "optimizer makes the data less likely"
                ),
                fix="put a minus before it",
                source=flow.line(each.index),
            )
            return
    yield from _list_rewarded(evidence, flow)


def _list_rewarded(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """Log-probabilities of actions, times a reward of either sign, that go in with a plus."""
    for loss in evidence.steps[0].losses if evidence.steps else ():
        for index, factor, sign in find_factors_of_likelihood(flow, loss):
            if (
                sign > 0
                and stat(factor, "min") < 0 < stat(factor, "max")
                and _is_reward(flow, index)
            ):
                yield Finding(
                    module=None,
                    message=(
                        "the loss is the log-probability times the reward without a minus: the "
                        "optimizer makes rewarded actions less likely"
                    ),
                    fix="put a minus before it: loss = -(log_prob * reward).mean()",
                    source=flow.line(index),
                    kind="rewarded",
                )
                return


def _has_both_signs(flow: Flow, index: int) -> bool:
    """Whether a likelihood is multiplied by numbers of which some are negative."""
    return any(
        stat(info, "min") < 0 and not info.requires_grad for info in flow.calls[index].inputs
    )


def _is_reward(flow: Flow, index: int) -> bool:
    """Whether the line of a product speaks of a reward, and of no cost."""
    path, _, line = flow.line(index).rpartition(":")
    text = linecache.getline(path, int(line)) if line.isdigit() else ""
    value = text.partition("=")[2] or text
    names = re.findall(r"[A-Za-z_]\w*", value)
    return any(map(REWARD.search, names)) and not any(map(COST.search, names))
