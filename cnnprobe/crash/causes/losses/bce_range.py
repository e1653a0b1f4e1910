import math

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.losses import list_losses, range_of, suspect_loss
from cnnprobe.crash.facts.words import quote

_ROUNDING = 1e-3  # outside of 0 to 1 by less: no logits, but rounding or an interpolation

_PROGRAM = """
  model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
  def run(model):
-     nn.BCELoss()(model(torch.randn(5, 6)), torch.ones(5, 1)).backward()
+     nn.BCEWithLogitsLoss()(model(torch.randn(5, 6)), torch.ones(5, 1)).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="use nn.BCEWithLogitsLoss")


@cause("CP074", "bce-range", EXAMPLE, stage="loss", prior=715)
def bce_range(crash: Crash) -> Suspects:
    """A binary cross entropy of probabilities got values outside of 0 to 1.

    Why it happens: the model ends without a sigmoid, so that its outputs are logits.
    What to do: use nn.BCEWithLogitsLoss, or end the model with a sigmoid, not both.
    Known exceptions: NaN is outside too; it arose before the loss.
    Source: torch.nn.BCELoss and torch.nn.BCEWithLogitsLoss.
    """
    for found in list_losses(crash):
        bounds = range_of(found.input)
        if found.name != "binary_cross_entropy" or bounds is None:
            continue
        low, high = bounds
        if low >= 0 and high <= 1:
            continue
        last = crash.find_last_layer()
        maker = f"; {quote(last)} gives them, with no sigmoid after it" if last else ""
        with_logits = found.give(
            "nn.BCEWithLogitsLoss()", title="use nn.BCEWithLogitsLoss",
            other="binary_cross_entropy_with_logits",
        )  # fmt: skip
        candidates = [propose(with_logits, weight=STRONG)]
        candidates.append(propose(found.give("torch.sigmoid(output)")))
        given = f"the outputs range from {low:.3g} to {high:.3g}: they are logits"
        if math.isnan(low):
            given, maker, candidates = "the output holds NaN", "", []
        elif low >= -_ROUNDING and high <= 1 + _ROUNDING:
            given, maker = f"the outputs range from {low:.6g} to {high:.6g}", ""
            candidates.insert(0, propose(found.give("output.clamp(0, 1)"), weight=STRONG))
        message = f"{found.shown} expects probabilities, but {given}"
        yield suspect_loss(found, message, candidates, arithmetic="valid are 0 to 1" + maker)
