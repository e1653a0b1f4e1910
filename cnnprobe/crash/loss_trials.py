"""A repair of the arguments of a loss, tried on copies of them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.training import Loss
from cnnprobe.explanation import Repair

Change = Callable[[Any, Any], tuple[Any, Any]]
BY_CLASS = {
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss", "NLLLoss2d": "nll_loss", "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "MSELoss": "mse_loss", "L1Loss": "l1_loss", "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss", "GaussianNLLLoss": "gaussian_nll_loss", "PoissonNLLLoss": "poisson_nll_loss", "KLDivLoss": "kl_div",
    "MultiMarginLoss": "multi_margin_loss",
}  # fmt: skip


def repaired(
    found: Loss, name: str, title: str, change: Change, *, code: str = "", other: str = ""
) -> Repair:
    """A repair of the loss's arguments (or another loss), tried on copies of them."""
    code = code.replace("{x}", "output" if "output" in title else "targets")
    given = {key: value for key, value in found.arguments.items() if isinstance(value, Tensor)}
    first = next((key for key in ("input", "x1") if key in given), None)
    try:
        x, target = change(given[first or "input"].detach(), given["target"].detach())
        loss = _call(found, other or name, x, target)
    except Exception as error:  # it does not mend it: the sentence says so
        return Repair(title=title, code=code, tried=f"tried: {type(error).__name__} is raised then")
    shape = tuple(loss.shape)
    value = (
        f" {float(loss):.4g}" if loss.numel() == 1 and not loss.is_meta else f" of shape {shape}"
    )
    return Repair(
        title=title,
        code=code,
        works=True,
        plausible=loss.numel() == 1,
        tried=f"tried: the loss passes and gives{value}",
    )


def _call(found: Loss, name: str, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        if (
            found.module is not None
            and BY_CLASS.get(type(found.module).__name__) == name
            and name != "gaussian_nll_loss"
        ):
            return found.module(x, target)  # type: ignore[no-any-return]
        function = getattr(F, name)
        options = {
            k: found.arguments[k]
            for k in ("weight", "ignore_index", "label_smoothing", "var")
            if k in found.arguments
        }
        if name.startswith("binary"):
            options.pop("ignore_index", None)
        return function(x, target, **options)  # type: ignore[no-any-return]


def working(*repairs: Repair) -> tuple[Repair, ...]:
    """Those of the repairs that mend it, the plausible ones first."""
    return tuple(sorted((r for r in repairs if r.works), key=lambda r: not r.plausible))
