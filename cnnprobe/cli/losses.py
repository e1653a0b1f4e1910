"""The loss that a command line names, and targets for it where none are given."""

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from cnnprobe.cli.loaded import Loaded
from cnnprobe.cli.options import InputRequest
from cnnprobe.cli.program import tell
from cnnprobe.errors import UnknownNameError, UsageError, suggest
from cnnprobe.operations import find_layer, select

if TYPE_CHECKING:
    from torch import Generator, Tensor


_OF_CLASSES = select(trait="classes")


# Those for which random targets can be drawn.
_LOSSES = sorted(_OF_CLASSES | select(trait="probabilities") | select(trait="values"))


class LossName(click.ParamType):  # type: ignore[type-arg,unused-ignore] # generic only since click 8.2
    """A loss of torch.nn.functional, by its own name or by that of its class."""

    name = "loss"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """What `--help` shows."""
        return "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """The name of the function.

        >>> LossName().convert("nn.CrossEntropyLoss", None, None)
        'cross_entropy'
        """
        given = str(value).rpartition(".")[2]
        layer = find_layer(given)
        name = layer.name if layer is not None else given
        if name not in _LOSSES:
            raise UnknownNameError(
                f"no loss named {value!r}",
                where=f"--loss {value}",
                fix=suggest(name, _LOSSES),
            )
        return name

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """The names that fit."""
        return [CompletionItem(name) for name in _LOSSES if name.startswith(incomplete)]


def make_targets(loaded: Loaded, given: InputRequest, options: dict[str, Any]) -> Any:
    """The given ones, or random ones that the loss takes, from the shape of what the model gives;
    None where its forward raises.
    """
    import torch

    from cnnprobe import loading
    from cnnprobe.recorder import observe

    text, place = options["targets"], f"--targets {options['targets']}"
    shape = loading.parse_shape(text, place) if text else None
    if text and shape is None:
        return loading.load_file(
            text, place, dtype=torch.float32, device=loading.parse_device(given.device)
        )
    with torch.no_grad():
        seen = observe(loaded.model, loaded.args, loaded.kwargs, statistics=False)
    if seen.error is not None:
        return None
    if not isinstance(seen.output, torch.Tensor) or (
        options["loss"] in _OF_CLASSES and seen.output.dim() == 0
    ):
        what = (
            "a single number"
            if isinstance(seen.output, torch.Tensor)
            else f"a {type(seen.output).__name__}"
        )
        raise UsageError(
            f"{options['loss']} cannot be computed from the model's output, {what}",
            where=f"--loss {options['loss']}",
            fix="call cnnprobe.diagnose in Python, with a loss_fn of your own",
        )
    made = _draw_random_targets(
        seen.output, options["loss"], shape, torch.Generator().manual_seed(given.seed)
    )
    tell(f"note: random targets of shape {tuple(made.shape)}; give your own with --targets FILE")
    return made


def _draw_random_targets(
    output: "Tensor", loss: str, shape: tuple[int, ...] | None, generator: "Generator"
) -> "Tensor":
    import torch

    if loss not in _OF_CLASSES:
        return torch.rand(shape or tuple(output.shape), generator=generator).to(output.device)
    axis = min(1, output.dim() - 1)  # an output without a batch has the classes first
    one_each = (*output.shape[:axis], *output.shape[axis + 1 :])
    return torch.randint(0, max(1, output.shape[axis]), shape or one_each, generator=generator).to(
        output.device
    )
