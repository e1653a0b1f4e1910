"""`cnnprobe shapes` and `cnnprobe memory`: how a model depends on the size of its input."""

import click

from cnnprobe.cli.loaded import load, send_prints_to_stderr
from cnnprobe.cli.options import (
    InputRequest,
    ModelRequest,
    OutputRequest,
    add_input_options,
    add_model_options,
    add_output_options,
    choose_format,
)
from cnnprobe.cli.output import check_file, is_coloured, write
from cnnprobe.cli.progress import show_progress


@click.command("shapes", short_help="Show every shape as a formula of the input's sizes.")
@add_model_options
@add_input_options
@add_output_options
def shapes_command(model: ModelRequest, given: InputRequest, wished: OutputRequest) -> None:
    """Show every shape of the model SPEC as a formula, and which input sizes it accepts.

    Nothing is computed. Sizes that crash are explained.
    """
    check_file(wished)
    with send_prints_to_stderr():
        loaded = load(model, given, without_values=True)
        from cnnprobe.api import shapes

        with show_progress(f"running {model.spec} at several sizes"):
            found = shapes(loaded.model, *loaded.args, **loaded.kwargs)
    form = choose_format(wished)
    write(found.to(form, width=wished.width, colour=is_coloured(wished)), wished)


@click.command("memory", short_help="Show the memory that a model takes, and the batch that fits.")
@add_model_options
@add_input_options
@click.option("--fits", metavar="SIZE", help="Find the largest batch within SIZE, such as 24GiB.")
@click.option(
    "--optimizer",
    default="adam",
    show_default=True,
    metavar="NAME",
    help="Optimizer: sgd, momentum, adam, adamw or rmsprop.",
)
@click.option(
    "--checkpoint",
    multiple=True,
    metavar="MODULE",
    help="Show what activation checkpointing of this module saves and costs; repeatable.",
)
@add_output_options
def memory_command(
    model: ModelRequest,
    given: InputRequest,
    wished: OutputRequest,
    *,
    fits: str | None,
    optimizer: str,
    checkpoint: tuple[str, ...],
) -> None:
    """Show the memory at the peak of training and inference as a function of the batch N.

    Nothing is computed. N is the first dim of the input.
    """
    check_file(wished)
    with send_prints_to_stderr():
        loaded = load(model, given, without_values=True)
        from cnnprobe.api import memory

        with show_progress(f"running {model.spec} at several batches"):
            found = memory(
                loaded.model,
                *loaded.args,
                optimizer=optimizer,
                fits=fits,
                checkpoint=checkpoint,
                **loaded.kwargs,
            )
    form = choose_format(wished)
    write(found.to(form, width=wished.width, colour=is_coloured(wished)), wished)
