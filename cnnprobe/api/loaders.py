"""What a loader gives to a diagnosis, and why it raised, explained as a crash of the loop is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.data.facts import Split
from cnnprobe.data.feeding import assemble, feed, is_batches, is_loader, wrap_dataset
from cnnprobe.data.inspecting import Inspection, read
from cnnprobe.data.keeping import kept_generators
from cnnprobe.data.reading import LoaderReading
from cnnprobe.data.source import Limits
from cnnprobe.errors import TargetError, UsageError
from cnnprobe.recorder.inventory import check_model

_VAGUE = ("unknown", "shape-mismatch")


def explain_failures(inspection: Inspection, model: nn.Module | None) -> Inspection:
    """The same with the reason why a sample cannot be read, where it is known."""
    if all(split.failed is None for split in inspection.data.splits):
        return inspection
    told: dict[str, Any] = {
        each.split.name: _explain_failure(each, model) for each in inspection.readings
    }
    return replace(inspection, data=replace(inspection.data, **told))


def _explain_failure(reading: LoaderReading, model: nn.Module | None) -> Split:
    failed = reading.split.failed
    if failed is None or reading.error is None:
        return reading.split
    from cnnprobe.crash import Crash, explain  # for those whose data cannot be read

    with kept_generators(reading.source.given):
        found = explain(Crash(error=reading.error, model=model))
    if found is None or found.diagnosis in _VAGUE:
        return reading.split
    # Without arithmetic only the sample and the message are known.
    is_known = found.diagnosis != "failed-sample" or bool(found.arithmetic)
    repair = found.repairs[0].title if is_known and found.repairs else ""
    reason = f"{found.diagnosis}: {found.message}" if is_known else ""
    return replace(reading.split, failed=replace(failed, reason=reason, repair=repair))


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One batch: what goes into the model, what into the loss, and how they are one again; of a
    loader also what was read of it, and a note on how the parts were found.
    """

    inputs: Any
    targets: Any
    assemble: Callable[[Any, Any], Any] | None = None
    inspection: Inspection | None = None
    said: tuple[str, ...] = ()


def take_batch(
    model: nn.Module,
    inputs: tuple[Any, Any],
    targets: Any,
    tell: Callable[[str, int], None] | None,
    *,
    learns: bool,
) -> Given:
    """A batch as it is given, and of loaders the first one; `learns` where there is a loss or a
    step.
    """
    given, validation = inputs
    is_data = is_loader(given) or (targets is None and is_batches(given))
    if is_data or (type(given) is list and validation is not None):
        return _read_loaders(model, inputs, targets, tell, learns=learns)
    if validation is not None:
        raise UsageError(
            "validation data is compared with training data, and a batch was given",
            where="diagnose(validation=...)",
            fix="give the training loader in place of the batch, or a list of batches: [(x, y)]",
        )
    return Given(inputs=given, targets=targets)


def _read_loaders(
    model: nn.Module,
    loaders: tuple[Any, Any],
    targets: Any,
    tell: Callable[[str, int], None] | None,
    *,
    learns: bool,
) -> Given:
    """The first batch, with what was read of the loaders."""
    check_model(model, "the model that is diagnosed")
    if targets is not None:
        raise UsageError(
            "targets are given beside a loader, which has its own",
            where="diagnose(model, loader, targets)",
            fix="diagnose(model, loader, loss_fn=...); the validation data goes to validation=",
        )
    loader, validation = loaders
    inspection = explain_failures(
        read(wrap_dataset(loader), validation, limits=Limits(), tell=tell), model
    )
    if inspection.first is None:
        raise _refuse_loader(inspection) from inspection.error
    first = inspection.first
    found = feed(first, model, learns=learns)
    return Given(
        inputs=found.inputs,
        targets=found.targets,
        assemble=lambda inputs, targets: assemble(first, found, inputs, targets),
        inspection=inspection,
        said=(found.said,),
    )


def _refuse_loader(inspection: Inspection) -> TargetError:
    failed = inspection.data.training.failed
    said = f": {failed.reason or f'{failed.kind}: {failed.message}'}" if failed else ""
    return TargetError(
        f"the loader gives no batch{said}",
        where="diagnose(model, loader)",
        fix=(failed.repair if failed else "")
        or "cnnprobe.inspect_data(loader) says which samples are at fault",
    )
