"""`cnnprobe stats`: what every layer puts out over a whole data set."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnprobe.cli.loaded import load_alone, send_prints_to_stderr
from cnnprobe.cli.options import (
    ModelRequest,
    OutputRequest,
    add_model_options,
    add_output_options,
    choose_format,
)
from cnnprobe.cli.output import check_file, is_coloured, write
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import UsageError

if TYPE_CHECKING:
    from cnnprobe.measuring import Measurements

_PAUSE = (0.5, 30.0)  # seconds between two lines of progress, on a terminal and elsewhere


@click.command("stats", short_help="Measure what every layer puts out over a whole data set.")
@add_model_options
@click.option(
    "--data", "root", required=True, metavar="DIR", type=click.Path(), help="Where the data lies."
)
@click.option(
    "--dataset",
    type=click.Choice(["cifar10", "cifar100", "folder"]),
    default="folder",
    show_default=True,
    help="How torchvision reads it; folder: one folder of images per class.",
)
@click.option("--test", is_flag=True, help="Of CIFAR the test images.  [default: the training's]")
@click.option(
    "--size", type=click.IntRange(1), metavar="N", help="Resize and crop images to N x N."
)
@click.option("--mean", metavar="R,G,B", help="Subtract this from each channel of 0 to 1.")
@click.option("--std", metavar="R,G,B", help="Then divide each channel by this.")
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, metavar="N",
    help="Samples of a pass.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="Processes that load the data.",
)  # fmt: skip
@click.option(
    "--device", default="cpu", show_default=True, metavar="NAME", help="Device: cpu, cuda."
)
@click.option(
    "--log", "--log-file", "log", metavar="FILE",  # torchrun takes --log for its --log-dir
    help="Keep what is known in JSON lines; the same command goes on there after a kill. Under "
    "torchrun, --log-file.",
)  # fmt: skip
@add_output_options
def stats_command(model: ModelRequest, wished: OutputRequest, **options: Any) -> None:
    """Run the model SPEC over a data set, in eval mode, and show the statistics of every layer:
    moments, extrema, percentiles, zeros, dead channels.

    \b
    With several processes each sample is counted once:
      torchrun --nproc-per-node 4 -m cnnprobe stats SPEC --data DIR
    """
    check_file(wished)
    if model.training:
        raise UsageError(
            "statistics of a data set are those of eval mode",
            where="--train",
            fix="leave it out",
        )
    with send_prints_to_stderr():
        found, rank = _measure(model, options)
    if rank == 0:
        form = choose_format(wished)
        write(found.to(form, width=wished.width, colour=is_coloured(wished)), wished)


def _measure(wanted: ModelRequest, options: dict[str, Any]) -> "tuple[Measurements, int]":
    with show_progress("importing torch"):
        from cnnprobe.measuring.datasets import open_dataset
        from cnnprobe.measuring.survey import Choices, survey
    mean, std = (_read_numbers(options[name], f"--{name}") for name in ("mean", "std"))
    dataset = open_dataset(
        options["dataset"],
        Path(options["root"]),
        train=not options["test"],
        size=options["size"],
        mean=mean,
        std=std,
    )
    choices = Choices(
        batch_size=options["batch"],
        workers=options["workers"],
        log=options["log"],
        data=_describe(dataset, options),
        progress=_Progress().show,
    )
    rank, of, local = (
        int(os.environ.get(name) or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    )
    device = options["device"]
    if device == "cuda" and of > 1:
        device = f"cuda:{local}"
    model = load_alone(wanted, device)
    if of < 2:
        return survey(model, dataset, choices), 0
    import torch

    torch.distributed.init_process_group("gloo")
    try:
        return survey(model, dataset, choices), rank
    finally:
        torch.distributed.destroy_process_group()


def _describe(dataset: Any, options: dict[str, Any]) -> str:
    """The data in words; a log is gone on with only where they are the same."""
    part = "" if options["dataset"] == "folder" else " (test)" if options["test"] else " (training)"
    how = [
        f"{name} {options[name]}" for name in ("size", "mean", "std") if options[name] is not None
    ]
    return f"{type(dataset).__name__}{part} in {options['root']}" + (
        f", {', '.join(how)}" if how else ""
    )


def _read_numbers(text: str | None, option: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(","))) if text else ()
    except ValueError as error:
        raise UsageError(
            f"{text!r} are no numbers", where=option, fix=f"write {option} 0.49,0.48,0.45"
        ) from error


class _Progress:
    """A line now and then: on a terminal over itself."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._began = self._told = time.monotonic()
        self._before: int | None = None  # samples that an earlier run has done

    def show(self, done: int, of: int) -> None:
        """So many samples are done."""
        now = time.monotonic()
        if self._before is None:
            self._before, self._began = done, now
        if done < of and now - self._told < _PAUSE[0 if self._is_terminal else 1]:
            return
        self._told = now
        rate = (done - self._before) / max(now - self._began, 1e-9)
        text = f"{done:,} of {of:,} samples ({done / of:.0%}), {rate:,.0f} samples/s"
        if not self._is_terminal:
            tell(text)
            return
        sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if done == of else ""))
        sys.stderr.flush()
