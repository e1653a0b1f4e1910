import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.losses import list_losses, range_of, suspect_loss
from cnnprobe.crash.facts.makers import find_layer_of

_PROGRAM = """
  model = nn.Linear(6, 2)
  def run(model):
      mean, var = model(torch.randn(8, 6)).chunk(2, dim=1)
-     nn.GaussianNLLLoss()(mean, torch.randn(8, 1), var - 5).backward()
+     nn.GaussianNLLLoss()(mean, torch.randn(8, 1), F.softplus(var - 5)).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="pass F.softplus(var)")


@cause("CP075", "output-range", EXAMPLE, stage="loss", prior=705)
def output_range(crash: Crash) -> Suspects:
    """A loss got a negative variance.

    Why it happens: a layer gives any number, and nothing makes it positive.
    What to do: give the variance through a softplus, or predict its logarithm and take exp().
    Known exceptions: none.
    Source: torch.nn.GaussianNLLLoss, "var: tensor of positive variance(s)".
    """
    for found in list_losses(crash):
        var = found.arguments.get("var")
        bounds = range_of(var) if found.name == "gaussian_nll_loss" else None
        if bounds is None or bounds[0] >= 0 or not isinstance(var, Tensor):
            continue
        soft = found.give("F.softplus(var)", options={"var": F.softplus(var.detach())})
        title = "pass var.exp(), if it is a log-variance"
        exp = found.give("var.exp()", title=title, options={"var": var.detach().exp()})
        fqn = find_layer_of(crash, var)
        maker = f"; they are what {crash.describe_module(fqn)} gives" if fqn else ""
        yield suspect_loss(
            found,
            f"{found.shown} expects variances that are not negative, "
            f"but they range from {bounds[0]:.3g} to {bounds[1]:.3g}{maker}",
            [propose(soft, weight=STRONG), propose(exp)],
            module=fqn or None,
            arithmetic="valid are 0 and above",
            tensors=(found.input, found.target, var),
        )
