"""The assertion that no rule finds anything. Runs the model again, as `cnnprobe.diagnose` does, and
leaves it as it was.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cnnprobe.api import diagnose
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.diagnosis import at_least as grave
from cnnprobe.errors import UnknownNameError, suggest
from cnnprobe.records.words import format_counted
from cnnprobe.report import Report
from cnnprobe.testing.failures import Inputs, fail, fail_with_error

MOST_PATCH_LINES = 30  # of a diff that a message shows; a longer one is report.patch


def assert_healthy(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    *,
    at_least: str = "warning",
    ignore: Mapping[str, str] | None = None,
    **training: Any,
) -> None:
    """Fail if any rule finds a fault: of the forward pass alone, with `loss_fn` of the gradients
    too, with `optimizer` of training steps.

    Args:
        model: the model, in the mode in which it is to be judged.
        inputs: one batch of what it is called with.
        targets: what the loss compares with.
        at_least: "info", "warning" or "error": milder findings are passed over.
        ignore: rule name or code, or "name:fqn" for one module, to the reason why it is meant so.
        **training: `loss_fn`, `optimizer`, `train_step`, `scheduler`, `steps`, `rules`, as for
            `cnnprobe.diagnose`.

    Raises:
        AssertionError: with every finding, the root causes first.
        UsageError: a suppression has no reason.

    >>> import torch
    >>> assert_healthy(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(8, 4))
    """  # noqa: E501
    __tracebackhide__ = True
    known = [severity.value for severity in Severity]
    if at_least not in known:
        raise UnknownNameError(
            f"no severity {at_least!r}",
            where="assert_healthy(at_least=...)",
            fix=suggest(at_least, known),
        )
    report = diagnose(model, inputs, targets, ignore=ignore, **training)
    if report.error is not None:
        fail_with_error(model, inputs, report.trace, report.error)
    found = list(grave(report.findings, at_least))
    if found:
        fail(
            format_counted(len(found), "finding"),
            details=[
                *(line for finding in found for line in _write_lines(finding)),
                *_write_patch(report),
            ],
            where=report.trace.model,
            fix="start with the first, or say why it is intended: "
            f'ignore={{"{found[0].rule}": "the reason"}}',
            report=report,
        )


def _write_patch(report: Report) -> list[str]:
    """The proven fixes as a diff, where it is short, and what they do together."""
    said = [f"all fixes together: {report.together.said}"] if report.together is not None else []
    lines = report.patch.splitlines()
    if not lines or len(lines) > MOST_PATCH_LINES:
        return said
    return [*said, "the fixes as a diff, for `patch -p1`:", *(f"  {line}" for line in lines)]


def _write_lines(finding: Finding) -> tuple[str, ...]:
    place = (
        ""
        if finding.module is None
        else f" in '{finding.module}'"
        if finding.module
        else " in the model itself"
    )
    follows = f" (follows from {', '.join(finding.follows_from)})" if finding.follows_from else ""
    severity = finding.severity or Severity.INFO
    return (
        f"{severity.value} {finding.rule} ({finding.code}){place}: {finding.message}{follows}",
        f"  fix: {finding.advice}",
    )
