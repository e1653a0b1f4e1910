"""`cnnprobe merge`: the logs of all ranks of a training as one report."""

from typing import Any

import click

from cnnprobe.cli.diagnosing import check_thresholds, end
from cnnprobe.cli.options import (
    OutputRequest,
    add_output_options,
    choose_format,
    fail_on_option,
)
from cnnprobe.cli.output import check_file, is_coloured, write


@click.command("merge", short_help="Make one report of the logs of all ranks.")
@click.argument("folder", metavar="FOLDER|RUN.jsonl", type=click.Path())
@fail_on_option
@add_output_options
def merge_command(folder: str, wished: OutputRequest, **options: Any) -> None:
    """Read the logs that the ranks of a training wrote into FOLDER, and say what differs.

    \b
    In the training: cnnprobe.monitor(model, optimizer, log="FOLDER").
    Copy the logs of other machines into the same folder first.
    """
    check_file(wished)
    thresholds = options["fail_on"] or ("warning",)
    check_thresholds(thresholds, ())
    from cnnprobe.saved import load

    report = load(folder)
    form = choose_format(wished)
    write(report.to(form, width=wished.width, colour=is_coloured(wished)), wished)
    end(report.findings, thresholds, wished)
