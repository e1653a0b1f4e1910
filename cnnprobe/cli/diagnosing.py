"""`cnnprobe diagnose`, `rules` and `explain`: why a model does not learn, and the pages of what is
looked for.
"""

import functools
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnnprobe.cli.loaded import Loaded, load, send_prints_to_stderr
from cnnprobe.cli.losses import LossName, make_targets
from cnnprobe.cli.options import (
    InputRequest,
    ModelRequest,
    OutputRequest,
    add_input_options,
    add_model_options,
    add_output_options,
    choose_format,
    fail_on_option,
    rules_option,
)
from cnnprobe.cli.output import check_file, is_coloured, write
from cnnprobe.cli.program import tell
from cnnprobe.cli.progress import show_progress
from cnnprobe.errors import CheckError, TargetError, UnknownNameError, UsageError, suggest

if TYPE_CHECKING:
    from cnnprobe.crash.cause import Cause, Example
    from cnnprobe.data import DataRule
    from cnnprobe.diagnosis import Finding, Rule
    from cnnprobe.ranks import RankRule
    from cnnprobe.report import Report

SAMPLES = 8  # of a batch that is made up


@click.command("diagnose", short_help="Find out why a model does not learn.")
@add_model_options
@add_input_options
@click.option(
    "--targets",
    metavar="SHAPE|FILE",
    help="Targets for the loss.  [default: random, in the form the loss expects]",
)
@click.option(
    "--loss",
    type=LossName(),
    help=(
        "Loss, by its function or its class: cross_entropy, nn.MSELoss; without one only the "
        "forward pass is checked."
    ),
)
@click.option(
    "--optimizer",
    metavar="NAME[:K=V,...]",
    help="Optimizer: adam:lr=1e-3, sgd:lr=0.1,momentum=0.9, any of torch.optim.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    metavar="N",
    help="Number of training steps to observe.",
)
@click.option(
    "--trials",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    metavar="N",
    help="Forward and backward passes in which fixes are tried.",
)
@click.option("--diff", is_flag=True, help="Print the proven fixes as a diff, and no findings.")
@click.option("--fix", is_flag=True, help="Write the proven fixes into your files.")
@click.option("--unsafe-fixes", is_flag=True, help="With --fix, also those that are not proven.")
@fail_on_option
@rules_option
@add_output_options
def diagnose_command(
    model: ModelRequest, given: InputRequest, wished: OutputRequest, **options: Any
) -> None:
    """Run the model SPEC and, with --loss and --optimizer, a few training steps, and say what is
    wrong.

    \b
    pyproject.toml may suppress findings, each with its reason:
      [tool.cnnprobe.ignore]
      redundant-bias = "as published"
      "dead-relu:head.relu" = "a sparse code"
    """
    check_file(wished)
    thresholds = options["fail_on"] or ("warning",)
    check_thresholds(thresholds, options["files"])
    begun = time.time()
    with send_prints_to_stderr():
        trained = replace(model, training=model.training is not False)
        report = _diagnose(_take_several(load(trained, given), given), given, options)
        if options["fix"] and _fix(report, begun, unsafe=options["unsafe_fixes"]):
            report = _diagnose(_take_several(load(trained, given), given), given, options)
    if not options["loss"] and report.trace.failure is None:
        tell("note: only the forward pass was checked; --loss and --optimizer check training too")
    form = choose_format(wished)
    shown = _join_patches(report) if options["diff"] else _render(report, form, wished)
    write(shown, wished)
    if report.trace.failure is not None:
        click.get_current_context().exit(TargetError.exit_code)
    end(report.findings, thresholds, wished)


def _fix(report: "Report", begun: float, *, unsafe: bool) -> bool:
    """Whether any file of the user's was written; it is then imported again."""
    from cnnprobe.cli.fixing import choose_fixes, forget, write_fixes

    chosen = choose_fixes(report.findings, unsafe=unsafe, together=report.together)
    written = write_fixes(chosen, begun)
    forget(written)
    return bool(written)


def _take_several(loaded: Loaded, given: InputRequest) -> Loaded:
    """More samples than the one that was made up: BatchNorm in train mode needs several."""
    import torch

    if given.inputs or not loaded.model.training:
        return loaded
    generator = torch.Generator().manual_seed(given.seed)
    args = tuple(
        torch.randn((SAMPLES, *a.shape[1:]), generator=generator).to(a)
        if isinstance(a, torch.Tensor) and a.is_floating_point() and not a.is_meta
        else a
        for a in loaded.args
    )
    if all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in loaded.args):
        tell(f"note: taking {SAMPLES} samples of it")
        return replace(loaded, args=args)
    return loaded


def _join_patches(report: "Report") -> str:
    """The proven fixes as one text of diffs; those whose line is not known are named on stderr."""
    from cnnprobe.diagnosis import Verdict
    from cnnprobe.remedies import UNWRITTEN

    proven = [f for f in report.findings if f.tried and f.tried.verdict is Verdict.PROVEN]
    for finding in proven:
        if finding.tried is not None and not finding.tried.patch:
            why = UNWRITTEN.get(finding.rule, "its line in your files is not known")
            tell(f"note: {finding.rule}: {finding.tried.title}: {why}")
    return report.patch


def _diagnose(loaded: Loaded, given: InputRequest, options: dict[str, Any]) -> "Report":
    import torch

    from cnnprobe.api import diagnose

    inputs: Any = loaded.args if not loaded.kwargs else loaded.kwargs
    loss = getattr(torch.nn.functional, options["loss"]) if options["loss"] else None
    targets = make_targets(loaded, given, options) if loss is not None else None
    optimizer = (
        _build_optimizer(loaded.model, options["optimizer"]) if options["optimizer"] else None
    )
    if optimizer is not None and loss is None:
        raise UsageError(
            "an optimizer needs a loss",
            where="--optimizer",
            fix="add --loss cross_entropy, or the loss that you train with",
        )
    with show_progress("diagnosing"):
        return diagnose(
            loaded.model,
            inputs,
            targets,
            loss_fn=loss,
            optimizer=optimizer,
            steps=options["steps"],
            trials=options["trials"],
            rules=options["files"],
            ignore=read_ignored(),
        )


def _parse_setting(key: str, value: str) -> Any:
    """A setting of an optimizer, as a value of Python's."""
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(f"{key.strip()}={value} is not a number") from None


def _build_optimizer(model: Any, text: str) -> Any:
    import torch

    name, _, settings = text.partition(":")
    kinds = {
        kind.lower(): kind
        for kind in torch.optim.__all__
        if isinstance(getattr(torch.optim, kind), type)
    }
    if name.lower() not in kinds:
        raise UnknownNameError(
            f"no optimizer named {name!r}",
            where=f"--optimizer {text}",
            fix=suggest(name.lower(), kinds),
        )
    if next(model.parameters(), None) is None:
        raise UsageError(
            "the model has no parameters to train",
            where=f"--optimizer {text}",
            fix="leave --optimizer out: the forward pass and the loss are checked without it",
        )
    try:
        pairs = (item.partition("=") for item in settings.split(",") if item)
        values = {key.strip(): _parse_setting(key, value) for key, _, value in pairs}
        trained = [p for p in model.parameters() if p.requires_grad]
        return getattr(torch.optim, kinds[name.lower()])(
            trained or list(model.parameters()), **values
        )
    except (ValueError, SyntaxError, TypeError) as error:
        raise UsageError(
            f"the optimizer cannot be built: {error}",
            where=f"--optimizer {text}",
            fix="write it as adam:lr=1e-3",
        ) from error


def read_ignored() -> dict[str, str]:
    """What pyproject.toml suppresses, with the reasons."""
    path = Path("pyproject.toml")
    if not path.is_file():
        return {}
    try:
        table = (
            tomllib.loads(path.read_text(encoding="utf-8"))
            .get("tool", {})
            .get("cnnprobe", {})
            .get("ignore", {})
        )
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise UsageError(
            f"pyproject.toml cannot be read: {error}",
            where="[tool.cnnprobe.ignore]",
            fix="correct the file",
        ) from error
    return {str(key): str(reason) for key, reason in table.items()}


def _render(report: "Report", form: str, wished: OutputRequest) -> str:
    if form == "json" or report.trace.failure is not None:
        return report.to(form, width=wished.width, colour=is_coloured(wished))
    from cnnprobe.document.layout.findings import lay_out_findings
    from cnnprobe.document.render import render

    return render(
        lay_out_findings(report.trace.model, report.findings),
        form,
        width=wished.width,
        colour=is_coloured(wished),
    )


def check_thresholds(thresholds: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Raises UnknownNameError where a threshold is neither a severity nor a rule."""
    from cnnprobe.diagnosis import Severity

    entries = _list_entries(files)
    names = {severity.value for severity in Severity}
    names |= {n for entry in entries for n in (entry.name, entry.code)}
    names |= {family for entry in entries if (family := getattr(entry, "family", ""))}
    for threshold in thresholds:
        if threshold not in names:
            raise UnknownNameError(
                f"neither a severity nor a rule: {threshold!r}",
                where="--fail-on",
                fix=suggest(threshold, sorted(names)),
            )


def end(findings: "Sequence[Finding]", thresholds: tuple[str, ...], wished: OutputRequest) -> None:
    """Exit with 1 where one of the thresholds is reached."""
    from cnnprobe.diagnosis import at_least

    found = {
        f"{f.rule} in {f.module!r}" if f.module else f.rule
        for t in thresholds
        for f in at_least(findings, t)
    }
    if found:
        if wished.file is not None:
            tell(f"found: {', '.join(sorted(found))}")
        click.get_current_context().exit(CheckError.exit_code)


@functools.cache
def _list_entries(files: tuple[str, ...]) -> "tuple[Rule | DataRule | RankRule | Cause, ...]":
    """Every cause of a crash and every rule, by code."""
    from cnnprobe.crash.cause import all_causes, load_causes
    from cnnprobe.diagnosis.discovery import sort_by_code

    return sort_by_code((*all_causes(), *load_causes(files), *_list_rules(files)))


@functools.cache
def _list_rules(files: tuple[str, ...]) -> "tuple[Rule | DataRule | RankRule, ...]":
    from cnnprobe.data import load_data_rules
    from cnnprobe.ranks import load_rank_rules
    from cnnprobe.rulebook import load_rules

    return (*load_rules(files), *load_data_rules(files), *load_rank_rules(files))


@click.command("rules", short_help="List the diagnosis rules and the causes of crashes.")
@rules_option
def rules_command(files: tuple[str, ...]) -> None:
    """List the causes of crashes (CP0) and the rules: code, severity, name, what each finds."""
    entries = _list_entries(files)
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        click.echo(
            f"{entry.code}  {entry.severity.value:<7}  {entry.name:<{width}}  {entry.sentence}"
        )


@click.command("explain", short_help="Print the page of a rule or of a cause.")
@click.argument("name")
@rules_option
def explain_command(name: str, files: tuple[str, ...]) -> None:
    """Print the page of the rule or cause NAME: its name, missing-flatten, or its code, CP001."""
    from cnnprobe.diagnosis.discovery import find_entry

    rules = _list_rules(files)  # their pages are there without importing torch
    entries: Sequence[Rule | DataRule | RankRule | Cause] = rules
    if not any(name in (rule.name, rule.code) for rule in rules):
        entries = _list_entries(files)
    shown = [entry for entry in entries if name in (entry.name, entry.code)]
    shown += [entry for entry in entries if getattr(entry, "family", "") == name]
    click.echo("\n\n".join(_write_page(one) for one in shown or [find_entry(name, entries)]))


def _write_page(entry: "Rule | DataRule | RankRule | Cause") -> str:
    """The page, with the correction of a cause's example as a diff."""
    title = f"{entry.name} ({entry.code}, {entry.severity.value})"
    examples: tuple[Example, ...] = getattr(entry, "examples", ())
    diffs = "".join(f"\n\nExample:\n\n{example.diff}" for example in examples[:1])
    return f"{title}\n\n{entry.page}{diffs}".rstrip()
