"""What `--fail-on` asks of a trace: each check names what it found, or nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from cnnprobe.errors import CheckError
from cnnprobe.records.trace import Trace

_NAMED = 5


def run_checks(trace: Trace, names: Iterable[str]) -> None:
    """Raises CheckError for the first of the named checks that finds something."""
    for name in names:
        found = list(dict.fromkeys(CHECKS[name](trace)))
        if found:
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            raise CheckError(
                f"{_SAID[name]}: {', '.join(found[:_NAMED])}{more}",
                where=f"--fail-on {name}, in {trace.model}",
                fix=_FIXES[name],
            )


def _count_rows(trace: Trace, key: str) -> Iterator[str]:
    """The rows with such values in an output, the first one first, or the reason why that is not
    known.
    """
    if not any(out.stats for call in trace.calls for out in call.outputs):
        yield "unknown: no values were observed"
    for call in trace.calls:
        for out in call.outputs:
            if out.stats and out.stats.get(key, 0):
                yield (
                    f"{call.fqn!r} ({out.stats[key]})"
                    if call.fqn
                    else f"{call.kind} ({out.stats[key]})"
                )


def _check_nan(trace: Trace) -> Iterator[str]:
    return _count_rows(trace, "nan")


def _check_inf(trace: Trace) -> Iterator[str]:
    return _count_rows(trace, "inf")


def _check_unused(trace: Trace) -> Iterator[str]:
    """Modules with parameters that no call reached; those inside a stock module that was called are
    its own affair.
    """
    called = {call.fqn for call in trace.calls if call.fqn is not None}
    inner = tuple(
        f"{m.fqn}." for m in trace.modules if m.is_stock and not m.is_container and m.fqn in called
    )
    used = {
        tensor.source
        for call in trace.calls
        for tensor in call.inputs
        if isinstance(tensor.source, str)
    }
    for module in trace.modules:
        names = {module.fqn, *module.aliases}
        if (
            module.parameters
            and not names & called
            and not used & set(module.parameters)
            and not module.fqn.startswith(inner)
        ):
            yield repr(module.fqn)


CHECKS: Mapping[str, Callable[[Trace], Iterator[str]]] = {
    "nan": _check_nan,
    "inf": _check_inf,
    "unused": _check_unused,
}
_SAID = {
    "nan": "NaN in the outputs of",
    "inf": "Inf in the outputs of",
    "unused": "parameters are never used in",
}
_FIXES = {
    "nan": "check the inputs and weights of the first one",
    "inf": "check the inputs and weights of the first one",
    "unused": "call it in forward, or remove it from the model",
}
