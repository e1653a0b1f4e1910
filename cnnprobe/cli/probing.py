"""`cnnprobe probe`: one forward pass, and what every layer did in it."""

import time
from typing import TYPE_CHECKING

import click

from cnnprobe.cli.checks import CHECKS, run_checks
from cnnprobe.cli.loaded import Loaded, load, send_prints_to_stderr
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
from cnnprobe.cli.program import DEBUG, tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import ProbeError, TargetError, UsageError

if TYPE_CHECKING:
    from cnnprobe.document.render import Document
    from cnnprobe.report import Report


@click.command("probe", short_help="Run one forward pass and show what every layer did.")
@add_model_options
@add_input_options
@click.option(
    "--depth",
    type=click.IntRange(0),
    metavar="N",
    help="Deepest level shown: 1 the model's children.  [default: all]",
)
@click.option(
    "--parameters",
    is_flag=True,
    help="Show every parameter and buffer with its shape, not the layers.",
)
@click.option(
    "--explain-shapes",
    is_flag=True,
    help="Show the arithmetic behind every shape, and the receptive field.",
)
@click.option(
    "--second-opinion",
    is_flag=True,
    help="Compare the totals with torchinfo's, and show which is right.",
)
@click.option(
    "--diff",
    "--patch",
    "patch",
    is_flag=True,
    help="If the model crashes: print the repair as a diff for `patch -p1`.",
)
@click.option("--fix", is_flag=True, help="If the model crashes: write the repair into your file.")
@click.option(
    "--shapes-only",
    is_flag=True,
    help="Compute nothing and read no weight: shapes, parameters and MACs alone.",
)
@click.option(
    "--min-input",
    is_flag=True,
    help=(
        "Print the smallest height and width that the model accepts, and what they must be "
        "multiples of."
    ),
)
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(list(CHECKS)),
    help="Exit with 1 if this is found; repeatable.",
)
@add_output_options
def probe_command(
    model: ModelRequest,
    given: InputRequest,
    wished: OutputRequest,
    *,
    depth: int | None,
    parameters: bool,
    explain_shapes: bool,
    second_opinion: bool,
    patch: bool,
    fix: bool,
    shapes_only: bool,
    min_input: bool,
    fail_on: tuple[str, ...],
) -> None:
    """Run the model SPEC once and show what every layer did.

    \b
    SPEC is one of
      pkg.mod:attr             an instance, a class or a function
      path/to/file.py:Class    the same, from a file
      torchvision:resnet18     a model with random weights; also timm:NAME
      model.pt2                a program saved by torch.export

    Naming Python code runs it. Reading weights never runs code.
    """
    view = _choose_view(parameters=parameters, explain_shapes=explain_shapes)
    check_file(wished)
    begun = time.time()
    if min_input:
        with send_prints_to_stderr():
            least = _find_least(load(model, given, without_values=shapes_only))
        write(least, wished)
        return
    with send_prints_to_stderr():
        loaded = load(model, given, without_values=shapes_only)
        report = _probe(loaded, model, shapes_only=shapes_only)
        if fix and _fix(report, begun):
            loaded = load(model, given, without_values=shapes_only)
            report = _probe(loaded, model, shapes_only=shapes_only)
            patch = patch and report.trace.failure is not None
    if patch:
        write(_find_patch(report), wished)
        _end(report, wished, fail_on)
        return
    write(_render(report, wished, view, depth), wished)
    if second_opinion and report.trace.failure is None:
        with send_prints_to_stderr():
            opinion = _ask_second_opinion(loaded, report)
        _show_opinion(opinion, wished)
    _end(report, wished, fail_on)


def _choose_view(*, parameters: bool, explain_shapes: bool) -> str:
    if parameters and explain_shapes:
        raise UsageError(
            "--parameters and --explain-shapes cannot be combined",
            where="cnnprobe probe",
            fix="use one of them",
        )
    return "parameters" if parameters else "shapes" if explain_shapes else "layers"


def _probe(loaded: Loaded, model: ModelRequest, *, shapes_only: bool) -> "Report":
    import torch

    from cnnprobe.api import probe

    with torch.set_grad_enabled(bool(model.training)), show_progress(f"running {model.spec}"):
        try:
            return probe(loaded.model, *loaded.args, shapes_only=shapes_only, **loaded.kwargs)
        except SystemExit as error:
            raise TargetError(
                f"the model called sys.exit({error.code!r})",
                where=f"forward of {model.spec}",
                fix="remove that call from its forward",
            ) from error


def _find_least(loaded: Loaded) -> str:
    """The least input in words: "8 x 8 (multiples of 8)"."""
    from cnnprobe.crash import least_input, least_multiple

    with show_progress("looking for the smallest input"):
        found = least_input(loaded.model, *loaded.args, kwargs=loaded.kwargs)
        if found is None:
            raise TargetError(
                "the model accepts no square input up to 2048",
                where="--min-input",
                fix="give the number of channels that it expects: --input 1,3,32,32",
            )
        multiple = least_multiple(loaded.model, *loaded.args, kwargs=loaded.kwargs)
    note = f" (multiples of {multiple})" if multiple is not None and multiple > 1 else ""
    return " x ".join(map(str, found)) + note


def _fix(report: "Report", begun: float) -> bool:
    """Whether the repair of a crash was written into the user's file; it is then imported again."""
    from cnnprobe.cli.fixing import Fix, choose_repair, forget, write_fixes

    repair, explanation = choose_repair(report.explanation), report.explanation
    if repair is None or explanation is None:
        found = "no repair is known as a change of your files"
        tell(f"note: {found if report.trace.failure else 'nothing to fix: the forward passes'}")
        return False
    written = write_fixes([Fix(explanation.diagnosis, repair.title, repair.patch)], begun)
    forget(written)
    return bool(written)


def _find_patch(report: "Report") -> str:
    """The diff of the best repair whose line is known; which one it is goes to stderr."""
    from cnnprobe.cli.fixing import choose_repair

    explanation, repair = report.explanation, choose_repair(report.explanation)
    if repair is not None:
        click.echo(f"{repair.title}; {repair.tried}", err=True)
        return repair.patch
    if report.trace.failure is None:
        raise TargetError(
            "there is nothing to repair: the forward pass succeeds",
            where="--diff",
            fix="leave --diff out to see what every layer did",
        )
    raise TargetError(
        "no repair is known as a change of the source"
        + (f" ({explanation.diagnosis})" if explanation is not None else ""),
        where="--diff",
        fix="leave --diff out: the report shows what is known",
    )


def _ask_second_opinion(loaded: Loaded, report: "Report") -> "Document":
    from cnnprobe.cli.second_opinion import ask_torchinfo, lay_out_opinion

    with show_progress("asking torchinfo"):
        return lay_out_opinion(
            ask_torchinfo(loaded.model, loaded.args, loaded.kwargs, trace=report.trace)
        )


def _render(report: "Report", wished: OutputRequest, view: str, depth: int | None) -> str:
    form = choose_format(wished)
    if (
        view == "layers" or form == "json"
    ):  # JSON is always the whole report, which `load` reads back
        return report.to(form, width=wished.width, depth=depth, colour=is_coloured(wished))
    from cnnprobe.document.layout import lay_out_parameters
    from cnnprobe.document.layout.shapes import lay_out_shapes
    from cnnprobe.document.render import render

    document = (
        lay_out_parameters(report.trace) if view == "parameters" else lay_out_shapes(report.trace)
    )
    return render(document, form, width=wished.width, colour=is_coloured(wished))


def _show_opinion(opinion: "Document", wished: OutputRequest) -> None:
    """After the table where people read it; on stderr where the result is a file or is read by a
    machine.
    """
    from cnnprobe.document.render import render

    form = choose_format(wished)
    if wished.file is None and form in ("text", "markdown"):
        write("\n" + render(opinion, form, width=wished.width), wished)
    else:
        tell(render(opinion, "text", width=wished.width).rstrip())


def _end(report: "Report", wished: OutputRequest, fail_on: tuple[str, ...]) -> None:
    """Leave by the exit code that the report deserves."""
    failure = report.trace.failure
    if failure is not None:
        ctx = click.get_current_context()
        if ctx.meta.get(DEBUG):
            tell(failure.traceback)
        where = f"module {failure.module!r}" if failure.module else "the model itself"
        said = ProbeError(
            f"the forward pass raised {failure.error}",
            where=", ".join(part for part in (where, failure.source) if part),
            fix=report.explanation.repairs[0].title
            if report.explanation is not None and report.explanation.repairs
            else "the report shows the inputs of every earlier layer",
        )
        if wished.file is not None or choose_format(wished) not in ("text", "markdown"):
            tell(f"error: {said}")
        ctx.exit(said.exit_code)
    run_checks(report.trace, fail_on)
