"""`cnnprobe shapes`: every shape as a formula of the input's sizes."""

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
