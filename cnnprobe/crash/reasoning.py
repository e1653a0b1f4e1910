"""From suspicions to an explanation: the candidates are tried, what worked is ranked, the best one names the fault. Runs shadows of the model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from cnnprobe.crash import (
    axes,
    convolution,
    hooks,
    joining,
    linear,
    normalising,
    operations,
    placing,
    pooling,
    sequences,
    strangers,
    structure,
    wording,
)
from cnnprobe.crash.bench import Bench, is_plausible, set_up
from cnnprobe.crash.case import Case, line_of, named
from cnnprobe.crash.edits import Reconfigure
from cnnprobe.crash.patch import diff
from cnnprobe.crash.shadow import Outcome
from cnnprobe.crash.suspicion import LAST, POSSIBLE, Candidate, Suspicion
from cnnprobe.crash.users_code import innermost_locals, names_on_the_line
from cnnprobe.explanation import Explanation, Repair
from cnnprobe.trace import ModuleCall

MOST_SHOWN = 5  # repairs in an explanation
_MOST_STEPS = 3  # faults behind one another that are looked for
_RESERVE = 4  # forwards kept for a second fault


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A candidate that was tried, with what came of it."""

    suspicion: Suspicion
    candidate: Candidate
    outcome: Outcome
    plausible: bool

    def rank(self, parameters: int) -> tuple[bool, bool, int, int, bool]:
        """Best first: it runs, its output is plausible, the evidence points to it, few edits, the parameters are kept."""
        return (
            not self.outcome.works,
            not self.plausible,
            -self.candidate.weight - self.suspicion.weight,
            len(self.candidate.edits),
            self.outcome.parameters != parameters,
        )


def suspicions(case: Case, bench: Bench) -> list[Suspicion]:
    """Everything that the recorded facts point to, the best founded first."""
    rooms: list[Callable[[], Iterator[Suspicion]]] = [
        lambda room=room: room.suspect(case)  # type: ignore[misc]
        for room in (
            hooks,
            wording,
            structure,
            strangers,
            placing,
            linear,
            normalising,
            sequences,
            joining,
            operations,
            axes,
            pooling,
        )
    ]
    rooms.insert(6, lambda: convolution.suspect(case, bench))
    found = [one for room in rooms for one in _suspected(case, room)]
    return sorted(found, key=lambda one: -one.weight)


def _suspected(case: Case, room: Callable[[], Iterator[Suspicion]]) -> list[Suspicion]:
    try:
        return list(room())
    except Exception:
        if not case.lenient:
            raise
        return []


def explain_forward(case: Case) -> Explanation:
    """The explanation of a forward that raised."""
    bench = set_up(case)
    found = suspicions(case, bench)
    attempts = list(_tried(case, bench, found))
    if bench.is_ready and not any(a.plausible for a in attempts):
        attempts += _second_fault(case, bench, attempts)
    parameters = sum(p.numel for p in case.trace.parameters if p.kind == "parameter")
    attempts.sort(key=lambda a: a.rank(parameters))
    proven = {id(a.suspicion) for a in attempts if a.outcome.works}
    chosen = _chosen([s for s in found if not s.needs_proof or id(s) in proven], attempts)
    working = _distinct([a for a in attempts if a.outcome.works])
    repairs = [_repair(case, a, bench, parameters) for a in working]
    if bench.shadow is None and chosen is not None:
        repairs = [
            Repair(title=c.title, code=c.edits[0].code, module=c.edits[0].module)
            for c in chosen.candidates
            if c.weight > LAST
        ]
    repairs = repairs[:MOST_SHOWN]
    if chosen is not None and not any(r.plausible for r in repairs):
        repairs += [Repair(title=advice, module=chosen.module) for advice in chosen.advice]
    return _told(case, chosen, tuple(repairs), tuple(bench.notes))


def _tried(case: Case, bench: Bench, found: list[Suspicion]) -> Iterator[Attempt]:
    pairs = [(s, c) for s in found for c in s.candidates]
    pairs.sort(key=lambda pair: -pair[0].weight - pair[1].weight)
    for suspicion, one in pairs:
        if bench.left <= _RESERVE:
            return
        outcome = bench.attempt(one.edits)
        if outcome is not None:
            yield Attempt(
                suspicion=suspicion,
                candidate=one,
                outcome=outcome,
                plausible=is_plausible(case, outcome),
            )


def _second_fault(
    case: Case, bench: Bench, attempts: list[Attempt], step: int = 2
) -> list[Attempt]:
    """Where a candidate got further but not to the end, the next failure is reasoned about as well, and mended together with it."""
    further = [
        a
        for a in attempts
        if not a.outcome.works and a.candidate.weight > POSSIBLE and _got_further(bench, a.outcome)
    ]
    if not further or step > _MOST_STEPS or bench.shadow is None:
        return []
    best = min(
        further, key=lambda a: (-a.suspicion.weight - a.candidate.weight, -a.outcome.reached)
    )
    shadow = bench.shadow
    try:
        shadow.apply(best.candidate.edits)
        error = best.outcome.error or case.error
        later = Case(
            error=error,
            trace=best.outcome.trace,
            model=shadow.model,
            args=shadow.args,
            kwargs=shadow.kwargs,
            lenient=case.lenient,
        )
        pairs = [
            (s, c)
            for s in suspicions(later, bench)
            for c in s.candidates
            if not _undoes(best.candidate, c)
        ]
    finally:
        shadow.reset()
    pairs.sort(key=lambda pair: -pair[0].weight - pair[1].weight)
    tried: list[Attempt] = []
    for _, one in pairs[:_RESERVE]:
        both = Candidate(edits=(*best.candidate.edits, *one.edits), weight=best.candidate.weight)
        outcome = bench.attempt(both.edits)
        if outcome is not None:
            tried.append(
                Attempt(
                    suspicion=best.suspicion,
                    candidate=both,
                    outcome=outcome,
                    plausible=is_plausible(case, outcome),
                )
            )
    if not any(a.outcome.works for a in tried):
        tried += _second_fault(case, bench, tried, step + 1)
    return tried


def _undoes(first: Candidate, second: Candidate) -> bool:
    """Whether a candidate sets again what another has just set."""
    done = {
        (edit.module, name)
        for edit in first.edits
        if isinstance(edit, Reconfigure)
        for name in edit.changes
    }
    return any(
        (edit.module, name) in done
        for edit in second.edits
        if isinstance(edit, Reconfigure)
        for name in edit.changes
    )


def _got_further(bench: Bench, outcome: Outcome) -> bool:
    """Whether a later call failed, or the same one on something else: then it is another fault."""
    if bench.baseline is None:
        return False
    before, after = _failing(bench.baseline), _failing(outcome)
    if outcome.reached == bench.baseline.reached and before is not None and after is not None:
        return [(t.shape, t.dtype) for t in before.inputs] != [
            (t.shape, t.dtype) for t in after.inputs
        ]
    return outcome.reached > bench.baseline.reached


def _failing(outcome: Outcome) -> ModuleCall | None:
    failure = outcome.trace.failure
    return (
        outcome.trace.calls[failure.call]
        if failure is not None and failure.call is not None
        else None
    )


def _chosen(found: list[Suspicion], attempts: list[Attempt]) -> Suspicion | None:
    """The suspicion that explains most: well founded, and mended by what it proposes."""
    if not found:
        return None

    def score(suspicion: Suspicion) -> float:
        own = [a for a in attempts if a.suspicion is suspicion and a.outcome.works]
        best = max((a.candidate.weight + 2 * a.plausible for a in own), default=-1)
        return suspicion.weight + 0.8 * best

    return max(found, key=score)


def _distinct(attempts: list[Attempt]) -> list[Attempt]:
    seen: set[str] = set()
    return [
        a
        for a in attempts
        if a.candidate.title not in seen and not seen.add(a.candidate.title)  # type: ignore[func-returns-value]
    ]


def _repair(case: Case, attempt: Attempt, bench: Bench, parameters: int) -> Repair:
    outcome, edits = attempt.outcome, attempt.candidate.edits
    gives = ", ".join(map(str, outcome.shapes[:3])) + (", ..." if len(outcome.shapes) > 3 else "")
    after = outcome.parameters
    kept = (
        f"{after:,} parameters unchanged"
        if after == parameters
        else f"{after:,} parameters instead of {parameters:,}"
    )
    where = "; on meta, by shapes alone" if bench.meta and case.trace.mode != "meta" else ""
    return Repair(
        title=attempt.candidate.title,
        code="; ".join(edit.code.replace("{x}", "x") for edit in edits if edit.code),
        module=edits[0].module,
        works=True,
        plausible=attempt.plausible,
        tried=f"tried: the forward passes and gives {gives or 'no tensor'}; {kept}{where}",
        outputs=outcome.shapes,
        parameters=after,
        patch=patch_of(case, attempt.candidate),
    )


def patch_of(case: Case, one: Candidate) -> str:
    """The repair as a diff of the user's file, where the line is known."""
    return diff(case, one.edits)


def _at_hand(case: Case) -> Iterator[str]:
    """What the names on the failing line stood for."""
    values = innermost_locals(case.error)
    for name in dict.fromkeys(names_on_the_line(case.error)):
        value = values.get(name)
        if isinstance(value, torch.Tensor):
            yield f"{name} is {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')} on {value.device}"
        elif isinstance(value, int | float | str | tuple | list | None) and name in values:
            yield f"{name} is " + (
                f"a {type(value).__name__} of {len(value)}"
                if isinstance(value, tuple | list)
                else repr(value)[:60]
            )


def _told(
    case: Case, chosen: Suspicion | None, repairs: tuple[Repair, ...], notes: tuple[str, ...]
) -> Explanation:
    failure, call = case.trace.failure, case.call
    arrived = case.inputs[:8]
    source = (failure.source if failure is not None else "") or (
        call.source if call is not None else ""
    )
    shapes = ", ".join(f"{t.shape} {t.dtype}" for t in arrived)
    if chosen is None:
        has_tensors = (
            bool(arrived) and call is not None and (call.fqn is None or case.leaf is not None)
        )
        chosen = Suspicion(
            diagnosis="shape-mismatch" if has_tensors else "unknown",
            module=case.owner if call is None or call.fqn is None else call.fqn,
            message=f"the cause is not known; {case.name_of(call) if call is not None else 'the model'} raised"
            + (f" when it was given {shapes}" if shapes else ""),
        )
        if call is None or case.leaf is None:
            chosen = replace(chosen, evidence=tuple(_at_hand(case)))
    module = chosen.module
    found = case.modules.get(module) if module is not None else None
    return Explanation(
        diagnosis=chosen.diagnosis,
        stage="forward",
        module=module,
        kind=type(found).__name__ if found is not None else "",
        raised_in=case.name_of(call) if call is not None else named(case, case.owner),
        message=chosen.message,
        arithmetic=chosen.arithmetic,
        arrived=arrived,
        origin="; ".join(dict.fromkeys(case.origin(t) for t in arrived[:3])),
        source=source,
        line=line_of(source),
        repairs=repairs,
        evidence=(*chosen.evidence, *notes),
        error=f"{failure.kind}: {failure.message}" if failure is not None else "",
    )
