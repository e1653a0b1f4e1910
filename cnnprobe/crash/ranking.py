"""From suspects to an explanation: candidates are tried and ranked, the best names the fault."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from cnnprobe.crash.cause import Cause, all_causes
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import write_diff
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.words import read_line
from cnnprobe.crash.model_copy import ModelCopy, ShadowRun
from cnnprobe.crash.suspect import FALLBACK, LAST, POSSIBLE, Candidate, Suspect
from cnnprobe.crash.trials import Attempt, Trials
from cnnprobe.recorder.inventory import class_of
from cnnprobe.recorder.values import describe_tensor
from cnnprobe.records.explanation import Explanation, Repair
from cnnprobe.records.trace import ModuleCall, TensorInfo

MOST_SHOWN = 5  # repairs in an explanation
_MOST_STEPS = 3  # faults behind one another that are looked for
_RESERVE = 4  # forwards kept for a second fault
_MOST_ARRIVED = 8  # tensors that an explanation shows


def explain_crash(crash: Crash) -> Explanation:
    """The explanation of a crash of any stage."""
    crash.trials = trials = Trials(crash)
    suspects = find_suspects(crash)
    if (first := suspects[0]).cause is not None and first.cause.decides:
        untried = tuple(_leave_untried(crash, each) for each in first.candidates)
        return _to_explanation(crash, first, untried, ())
    attempts = list(_try_candidates(crash, trials, suspects))
    if trials.copy is not None and trials.left > 0 and not any(a.is_plausible for a in attempts):
        with crash.tolerate():
            attempts += _try_second_fault(crash, trials, attempts)
    parameters = sum(p.numel for p in crash.trace.parameters if p.kind == "parameter")
    attempts.sort(key=lambda attempt: rank_attempt(attempt, parameters))
    blamed = choose_suspect(suspects, attempts)
    repairs = [_to_repair(crash, attempt) for attempt in _drop_repeated(attempts) if attempt.works]
    if crash.stage == "forward" and trials.copy is None:
        usable = [c for c in blamed.candidates if c.weight > LAST]
        repairs = [_leave_untried(crash, c, with_patch=False) for c in usable]
    elif crash.stage != "forward":  # what could not be tried is shown without a claim
        known = {id(attempt.candidate) for attempt in attempts}
        left = [c for c in blamed.candidates if id(c) not in known]
        repairs += [_leave_untried(crash, c) for c in left if not _is_advice(c)]
    repairs = repairs[:MOST_SHOWN] + [
        _leave_untried(crash, c) for c in blamed.candidates if _is_advice(c)
    ]
    if not any(repair.plausible for repair in repairs):
        repairs += [Repair(title=advice, module=blamed.module) for advice in blamed.advice]
    return _to_explanation(crash, blamed, tuple(repairs), tuple(trials.notes))


# -- suspects --------------------------------------------------------------------------------------


def find_suspects(crash: Crash) -> list[Suspect]:
    """Everything that the recorded facts point to, the best founded first."""
    forward = crash.stage == "forward"
    found: list[tuple[int, Suspect]] = []
    for cause in sorted((*all_causes(), *crash.causes), key=lambda each: not each.decides):
        if crash.stage in cause.stages or ("around" in cause.stages and not forward):
            found += [(cause.prior, one) for one in _ask(crash, cause)]
            if found and cause.decides:
                break
    return [one for _, one in sorted(found, key=lambda pair: (-pair[1].weight, -pair[0]))]


def _ask(crash: Crash, cause: Cause) -> list[Suspect]:
    found: list[Suspect] = []
    with crash.tolerate():  # what was found before it stumbled is kept
        for one in cause.find(crash):
            usable = tuple(c for c in one.candidates if c.edits)  # an empty one changes nothing
            found.append(replace(one, cause=cause, candidates=usable))
    return found


def choose_suspect(suspects: list[Suspect], attempts: list[Attempt]) -> Suspect:
    """The suspect that explains most: well founded, and mended by what it proposes."""
    proven = {id(a.suspect) for a in attempts if a.works}

    def score(suspect: Suspect) -> float:
        own = [a for a in attempts if a.suspect is suspect and a.works]
        best = max((a.candidate.weight + 2 * a.is_plausible for a in own), default=-1)
        return suspect.weight + (0.8 * best if suspect.weight > FALLBACK else -1)

    return max((s for s in suspects if not s.needs_proof or id(s) in proven), key=score)


# -- trials ----------------------------------------------------------------------------------------


def _pair(suspects: Iterable[Suspect]) -> list[tuple[Suspect, Candidate]]:
    pairs = [(suspect, candidate) for suspect in suspects for candidate in suspect.candidates]
    return sorted(pairs, key=lambda pair: -pair[0].weight - pair[1].weight)


def _try_candidates(crash: Crash, trials: Trials, suspects: list[Suspect]) -> Iterator[Attempt]:
    for suspect, candidate in _pair(suspects):
        if crash.stage == "forward" and trials.left <= _RESERVE:
            return
        attempt = None
        with crash.tolerate():
            attempt = trials.attempt(suspect, candidate)
        if attempt is not None:
            yield attempt


def _to_later_crash(crash: Crash, trials: Trials, copy: ModelCopy, outcome: ShadowRun) -> Crash:
    """The crash that the mended copy ends in."""
    return Crash(
        error=outcome.error or crash.error,
        trace=outcome.trace,
        model=copy.model,
        args=copy.args,
        kwargs=copy.kwargs,
        line=crash.line,
        is_lenient=crash.is_lenient,
        trials=trials,
    )


def _try_second_fault(
    crash: Crash, trials: Trials, attempts: list[Attempt], step: int = 2
) -> list[Attempt]:
    """Where a candidate got further but not to the end, the next failure is mended with it."""
    further = [
        (a, a.outcome)
        for a in attempts
        if a.outcome is not None
        and not a.works
        and a.candidate.weight > POSSIBLE
        and _got_further(trials, a.outcome)
    ]
    copy = trials.copy
    if not further or step > _MOST_STEPS or copy is None:
        return []
    best, outcome = min(
        further,
        key=lambda pair: (-pair[0].suspect.weight - pair[0].candidate.weight, -pair[1].reached),
    )
    try:
        copy.apply(best.candidate.edits)
        later = _to_later_crash(crash, trials, copy, outcome)
        pairs = [p for p in _pair(find_suspects(later)) if not _undoes(best.candidate, p[1])]
    finally:
        copy.reset()
    tried: list[Attempt] = []
    for _, candidate in pairs[:_RESERVE]:
        edits = (*best.candidate.edits, *candidate.edits)
        attempt = trials.attempt(best.suspect, Candidate(edits=edits, weight=best.candidate.weight))
        if attempt is not None:
            tried.append(attempt)
    if not any(a.works for a in tried):
        tried += _try_second_fault(crash, trials, tried, step + 1)
    return tried


def _undoes(first: Candidate, second: Candidate) -> bool:
    """Whether a candidate sets again what another has just set."""

    def list_settings(candidate: Candidate) -> set[tuple[str | None, str]]:
        layers = [edit for edit in candidate.edits if isinstance(edit, Reconfigure)]
        return {(edit.module, name) for edit in layers for name in edit.changes}

    return bool(list_settings(first) & list_settings(second))


def _got_further(trials: Trials, outcome: ShadowRun) -> bool:
    """Whether a later call failed, or the same one on something else: then it is another fault."""
    if trials.baseline is None:
        return False
    before, after = _failing_call(trials.baseline), _failing_call(outcome)
    if outcome.reached == trials.baseline.reached and before is not None and after is not None:
        return [(t.shape, t.dtype) for t in before.inputs] != [
            (t.shape, t.dtype) for t in after.inputs
        ]
    return outcome.reached > trials.baseline.reached


def _failing_call(outcome: ShadowRun) -> ModuleCall | None:
    failure = outcome.trace.failure
    is_known = failure is not None and failure.call is not None
    return outcome.trace.calls[failure.call] if is_known else None  # type: ignore[union-attr,index]


def rank_attempt(attempt: Attempt, parameters: int) -> tuple[bool, bool, int, int, bool]:
    """Best first: it works, is plausible, well founded, has few edits, keeps the parameters."""
    outcome = attempt.outcome
    return (
        not attempt.works,
        not attempt.is_plausible,
        -attempt.candidate.weight - attempt.suspect.weight,
        len(attempt.candidate.edits),
        outcome is not None and outcome.parameters != parameters,
    )


def _drop_repeated(attempts: list[Attempt]) -> list[Attempt]:
    """The first of the attempts that have one title."""
    found: dict[str, Attempt] = {}
    for attempt in attempts:
        if attempt.works:
            found.setdefault(attempt.candidate.title, attempt)
    return list(found.values())


# -- words -----------------------------------------------------------------------------------------


def _is_advice(candidate: Candidate) -> bool:
    return isinstance(candidate.edits[0], Advice)


def _to_repair(crash: Crash, attempt: Attempt) -> Repair:
    outcome = attempt.outcome
    return replace(
        _leave_untried(crash, attempt.candidate),
        works=True,
        plausible=attempt.is_plausible,
        tried=attempt.tried,
        outputs=outcome.shapes if outcome is not None else (),
        parameters=outcome.parameters if outcome is not None else None,
    )


def _leave_untried(crash: Crash, candidate: Candidate, *, with_patch: bool = True) -> Repair:
    edits, patch = candidate.edits, ""
    if with_patch:
        with crash.tolerate():
            patch = write_diff(crash, edits)
    code = "; ".join(edit.code.replace("{x}", "x") for edit in edits if edit.code)
    return Repair(title=candidate.title, code=code, module=edits[0].module, patch=patch)


def _to_explanation(
    crash: Crash, blamed: Suspect, repairs: tuple[Repair, ...], notes: tuple[str, ...]
) -> Explanation:
    module = crash.modules.get(blamed.module) if blamed.module is not None else None
    cause = blamed.cause
    assert cause is not None  # noqa: S101  (find_suspects has filled it in)
    arrived = _list_arrived(crash, blamed)
    failure = crash.trace.failure
    return Explanation(
        diagnosis=cause.name,
        code=cause.code,
        family=cause.family or cause.name,
        stage=crash.stage,
        module=blamed.module,
        kind=class_of(module).__name__ if module is not None else "",
        raised_in=blamed.raised_in or _describe_failing(crash),
        message=blamed.message,
        arithmetic=blamed.arithmetic,
        arrived=arrived,
        origin="; ".join(dict.fromkeys(crash.describe_origin(t) for t in arrived[:3]))
        if crash.stage == "forward"
        else "",
        source=crash.source,
        line=read_line(crash.source),
        repairs=repairs,
        evidence=(*blamed.evidence, *notes),
        error=f"{failure.kind}: {failure.message}".removesuffix(": ")
        if failure is not None
        else f"{type(crash.error).__name__}: {crash.error}".removesuffix(": "),
    )


def _list_arrived(crash: Crash, blamed: Suspect) -> tuple[TensorInfo, ...]:
    if crash.stage == "forward":
        return crash.inputs[:_MOST_ARRIVED]
    return tuple(describe_tensor(t, "", None) for t in blamed.tensors)


def _describe_failing(crash: Crash) -> str:
    if crash.stage != "forward":
        return ""
    call = crash.call
    return crash.describe_call(call) if call is not None else crash.describe_module(crash.owner)
