"""A target that is the noisy input itself."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.groups import ARRANGING
from cnnprobe.diagnosis.evidence.questions import LossCall, loss_calls
from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.rulebook.material import images, layers

ERRORS = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
NOISE = frozenset({"randn", "randn_like", "normal"})
ON_BOTH_SIDES = 0.25  # of the data on each side of the input: what differs is noise
HANDING = ARRANGING | {"detach", "clamp"}


def _denoising(clean: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    net = layers(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def train_step(inputs: Any) -> None:
        noisy = 0.9 * inputs + 0.4 * torch.randn_like(inputs)
        optimizer.zero_grad()
        loss: Any = functional.mse_loss(net(noisy), inputs if clean else noisy)
        loss.backward()
        optimizer.step()

    return {"model": net, "inputs": images(), "optimizer": optimizer, "train_step": train_step}


def sick() -> Mapping[str, Any]:
    """The output is compared with the noisy input."""
    return _denoising(clean=False)


def healthy() -> Mapping[str, Any]:
    """With the input before the noise."""
    return _denoising(clean=True)


@rule(
    code="CP458",
    name="noisy-target",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-activation-mismatch",),
)
def noisy_target(evidence: Evidence) -> Iterator[Finding]:
    """The target is the very tensor that the model is given, with the noise that was added to it;
    or the data, for an output that the program takes off its input as if it were the noise.

    Why it matters: the best answer is a copy of the input; nothing is learned of the noise or of
    the data, and the loss looks good.
    What to do: compare with the data before the noise, or with the noise; x + noise in place of
    x += noise, which writes to the data.
    Known exceptions: autoencoders without added noise; a code that was drawn, and is to be found
    again.
    Source: Ho et al. 2020, arXiv:2006.11239, algorithm 1; Vincent et al. 2008, "Extracting and
    composing robust features with denoising autoencoders".
    """
    for loss in loss_calls(evidence):
        if loss.operation not in ERRORS or loss.target is None:
            continue
        slip = _find_taken_off(evidence, loss)
        if slip is not None:
            yield _say_taken_off(loss, slip)
            return
        flow, made = loss.flow, loss.flow.origin(loss.target, HANDING)
        taker = _find_taker(loss, made) if made is not None else None
        if made is None or taker is None or not _is_noised(flow, made):
            continue
        yield Finding(
            module=None,
            message=(
                f"the target of {describe(loss.call)} is the noisy tensor that "
                f"{describe(flow.calls[taker])} is given: a copy of its input is the best answer"
            ),
            fix=(
                "add the noise to a copy, x = x + noise: an in-place sum writes to the data"
                if flow.calls[made].kind.endswith(("add_", "__iadd__", "sub_", "__isub__"))
                else "compare with the data before the noise was added, or with the noise"
            ),
            source=flow.line(loss.index),
        )
        return


def _find_taken_off(evidence: Evidence, loss: LossCall) -> Slip | None:
    """Where the program takes the output of the model off its input, while this loss compares it
    with the data that the input is made of by adding noise.
    """
    slips = [slip for slip in evidence.texts.slips if slip.kind == "taken-off"]
    flow, target = loss.flow, loss.flow.outer(loss.target, HANDING) if loss.target else None
    roots = [i for i in flow.roots() if flow.calls[i].inputs]
    is_own = loss.origin is not None and flow.owner(loss.origin) is not None
    is_own = is_own and loss.origin_operation != "sub"
    if not slips or target is None or target.source is not None or len(roots) != 1 or not is_own:
        return None
    given = flow.calls[roots[0]].inputs[0]
    made = flow.origin(given, HANDING)
    if made is not None:
        return slips[0] if given.shape == target.shape and _is_noised(flow, made) else None
    offsets = evidence.batch.offsets
    return slips[0] if offsets is not None and min(offsets) > ON_BOTH_SIDES else None


def _say_taken_off(loss: LossCall, slip: Slip) -> Finding:
    return Finding(
        module=None,
        message=(
            f"{describe(loss.call)} compares the output with the data without noise, but "
            f"{slip.text} ({slip.source.rpartition('/')[2]}) takes the output off the input, as if "
            "it were the noise"
        ),
        fix=(
            "compare the output with the noise, which is the input of the model minus the data; or "
            "take the output itself for the data"
        ),
        source=loss.flow.line(loss.index),
        kind="taken-off",
    )


def _find_taker(loss: LossCall, made: int) -> int | None:
    """The module that the prediction comes from and that is given the target."""
    flow, end = loss.flow, loss.flow.producer(loss.prediction)
    rows = sorted(flow.before(end) | {end}) if end is not None else []
    return next(
        (
            i
            for i in rows
            if flow.calls[i].fqn is not None
            and any(flow.origin(info, HANDING) == made for info in flow.calls[i].inputs)
        ),
        None,
    )


def _is_noised(flow: Flow, made: int) -> bool:
    """Whether a row adds noise to what comes from outside."""
    before = flow.before(made)
    is_sum = operation(flow.calls[made]) in ("add", "sub", "lerp", "addcmul")
    has_noise = any(operation(flow.calls[i]) in NOISE for i in before)
    shape = flow.calls[made].outputs[0].shape if flow.calls[made].outputs else ()
    has_data = any(
        info.source is None and info.shape == shape and operation(flow.calls[i]) not in NOISE
        for i in before | {made}
        for info in flow.calls[i].inputs
    )
    return is_sum and has_noise and has_data
