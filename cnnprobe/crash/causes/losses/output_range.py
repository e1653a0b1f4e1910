"""Outputs that a loss cannot take as what they stand for: negative variances."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.facts.losses import list_losses, range_of, suspect_loss
from cnnprobe.crash.facts.makers import find_layer_of
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 2)


    def run(model):
        mean, var = model(torch.randn(8, 6)).chunk(2, dim=1)
        nn.GaussianNLLLoss()(mean, torch.randn(8, 1), var - 5).backward()
    """,
    old="var - 5",
    new="F.softplus(var - 5)",
    repair="pass F.softplus(var)",
)


@cause(code="CP075", name="output-range", stage="loss", prior=705, examples=EXAMPLE)
def output_range(crash: Crash) -> Iterator[Suspect]:
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
        maker = f"; they are what {describe_module(crash, fqn)} gives" if fqn else ""
        yield suspect_loss(
            found,
            f"{found.shown} expects variances that are not negative, "
            f"but they range from {bounds[0]:.3g} to {bounds[1]:.3g}{maker}",
            [propose(soft, weight=STRONG), propose(exp)],
            module=fqn or None,
            arithmetic="valid are 0 and above",
            tensors=(found.input, found.target, var),
        )
