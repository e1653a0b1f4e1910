"""`cnnprobe data`: what a loader or a folder of images gives, and what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnprobe.cli.diagnosing import check_thresholds, end, read_ignored
from cnnprobe.cli.loaded import send_prints_to_stderr
from cnnprobe.cli.options import (
    OutputRequest,
    add_output_options,
    choose_format,
    fail_on_option,
    rules_option,
)
from cnnprobe.cli.output import check_file, is_coloured, write
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import UsageError

if TYPE_CHECKING:
    from cnnprobe.data.report import DataReport


@click.command("data", short_help="Say what is wrong with the data of a loader or a folder.")
@click.argument("spec", metavar="SPEC|DIR", type=click.Path())
@click.option(
    "--validation",
    metavar="SPEC|DIR",
    help="The validation data.  [default: what the folder, or the pair of SPEC, holds]",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Read at most N samples of each.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="S",
    help="Read no longer than that.",
)
@click.option("--all", "whole", is_flag=True, help="Read everything, however long it takes.")
@click.option("--png", metavar="FILE", help="Also write the contact sheet of the training there.")
@fail_on_option
@rules_option
@add_output_options
def data_command(spec: str, wished: OutputRequest, **options: Any) -> None:
    """Read a bounded sample of the data that SPEC or DIR names, and say what is wrong with it.

    \b
    SPEC  train.py:train_loader, pkg.data:make_loaders: a DataLoader, a Dataset, batches,
          a pair of them (training, validation), or a function that returns one of these
    DIR   one folder of images per class, train/ and val/ of these,
          or a folder with cifar-10-batches-py/ or cifar-100-python/
    """
    check_file(wished)
    thresholds = options["fail_on"] or ("warning",)
    check_thresholds(thresholds, options["files"])
    with send_prints_to_stderr():
        report = _inspect(spec, options)
    form = choose_format(wished)
    write(report.to(form, width=wished.width, colour=is_coloured(wished)), wished)
    if options["png"]:
        report.save(Path(options["png"]).with_suffix(".png"))
        tell(f"wrote {Path(options['png']).with_suffix('.png')}")
    end(report.findings, thresholds, wished)


def _inspect(spec: str, options: dict[str, Any]) -> "DataReport":
    with show_progress("importing torch"):
        from cnnprobe.api import inspect_data

    with show_progress(f"opening {spec}"):
        training, validation = _open(spec)
        if options["validation"]:
            validation, _ = _open(options["validation"])
    whole = options["whole"]
    with show_progress("reading the data") as say:
        return inspect_data(
            training,
            validation,
            samples=None if whole else options["samples"],
            seconds=None if whole else options["seconds"],
            rules=options["files"],
            ignore=read_ignored(),
            tell=lambda name, samples: say(f"reading the {name} data, {samples:,} samples"),
        )


def _open(spec: str) -> tuple[Any, Any]:
    """The training data and, where it comes with one, the validation data."""
    if Path(spec).is_dir():
        from cnnprobe.data.folders import open_folder

        return open_folder(Path(spec))
    from cnnprobe.loading.code import find

    if ":" not in spec and not Path(spec).exists():
        raise UsageError(
            f"there is no folder {spec!r}",
            where="SPEC|DIR",
            fix="name a folder of images, or write path/to/file.py:loader or pkg.mod:loader",
        )
    found: Any = find(spec)
    if callable(found) and not hasattr(found, "__iter__") and not hasattr(found, "__getitem__"):
        found = _call(found, spec)
    if isinstance(found, tuple) and len(found) == 2 and not hasattr(found[0], "dim"):
        return found
    return found, None


def _call(make: Any, spec: str) -> Any:
    try:
        return make()
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UsageError(
            f"{spec.rpartition(':')[2]} cannot be called without arguments: {error}",
            where=f"SPEC {spec}",
            fix="name a loader, or a function of no arguments that returns one",
        ) from error
