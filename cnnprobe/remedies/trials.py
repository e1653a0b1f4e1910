"""Tries the remedies of findings: the steps, or the whole observation, with and without each; then
all together.

It runs the user's own model, loss, optimizers and train_step from their saved state, each trial
from the same weights, seeds and batch, and puts everything back to the bit.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from cnnprobe.crash.edits.files import TextChange, list_changes, overlap, write_changes
from cnnprobe.diagnosis import Finding, Rule, Severity, Tried, Verdict, run_rules
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.losses import (
    are_finite,
    compare_losses,
    ends_as,
    is_near,
    list_known,
    rises,
    runs_away,
    say_falls,
    say_losses,
)
from cnnprobe.remedies.ordering import order_by_trials
from cnnprobe.remedies.program import UserProgram
from cnnprobe.remedies.progress import TrialLine
from cnnprobe.remedies.remedy import Remedy, list_remedies
from cnnprobe.remedies.running import run_losses
from cnnprobe.remedies.subject import CannotTryError, Subject
from cnnprobe.training import Raised, Request, keep_request, observe_training, restore
from cnnprobe.training.surroundings import Surroundings

BUDGET = 60  # forward-backwards of the batch
MOST_STEPS = 20  # of one run; enough for the loss of one batch to fall by more than its noise
SEVERAL = 3  # findings of one rule, from which on one change of all places is tried first
SHORT = 6  # steps of an observation that is made again, where the finding needs no more
REPLAYED = 3  # further steps of an observation, where the loss rose or did not move
USED_UP = "the budget was used up"
PROBES = 3  # forward-backwards that the forward passes of a second observation are worth
SHARE = 5.0  # times the seconds of the observation that all trials may take ...
LEAST_SECONDS = 10.0  # ... and so many in any case


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedFindings:
    """The findings with what was tried, in their order, and all proven remedies together."""

    findings: tuple[Finding, ...]
    together: Tried | None = None


def try_remedies(
    request: Request,
    evidence: Evidence,
    findings: Sequence[Finding],
    rules: Iterable[Rule],
    *,
    budget: int = BUDGET,
    seconds: float = 0.0,
) -> TriedFindings:
    """Try what answers each finding, the root causes first, within `budget` forward-backwards.

    Args:
        request: what was diagnosed.
        evidence: what was observed of it.
        findings: what the rules found, root causes first.
        rules: the rules that judge again.
        budget: forward-backwards of the batch that all trials may take; 0 tries nothing.
        seconds: that the observation took, of which the trials may take `SHARE` times as much.
    """
    if budget <= 0 or not findings or evidence.trace.failure is not None:
        return TriedFindings(findings=tuple(findings))
    request = replace(request, when_raised=_pass_over)
    until = time.monotonic() + max(LEAST_SECONDS, SHARE * seconds)
    with keep_request(request) as (around, states):
        bench = Bench(request, evidence, findings, tuple(rules))
        bench.around, bench.states = around, states
        bench.left, bench.until = budget, until
        return bench.run()


def _pass_over(raised: Raised, request: Request) -> None:
    """A remedy that raises is told by its verdict; it is not explained."""


class Bench:
    """All trials of one diagnosis, which share saved states and a budget."""

    def __init__(
        self,
        request: Request,
        evidence: Evidence,
        findings: Sequence[Finding],
        rules: tuple[Rule, ...],
    ) -> None:
        self.request, self.evidence, self.rules = request, evidence, rules
        self.findings = tuple(findings)
        self.around, self.states = Surroundings(), list[Any]()
        self.left, self.until = BUDGET, math.inf
        self.proven: list[tuple[Finding, Remedy, Tried]] = []
        self.as_it_is: tuple[float, ...] = ()
        self.short: tuple[Finding, ...] | None = None  # what a short observation finds as it is
        self.choices = {id(finding): self.choose(finding) for finding in self.findings}
        self.share = math.inf  # forward-backwards that each trial may take, so that all are made

    def run(self) -> TriedFindings:
        """Each finding's remedies, then all of them together."""
        roots = sorted(self.findings, key=lambda f: bool(f.follows_from))
        line = TrialLine(len(roots) + 1)
        self.share = self.left / (1 + sum(map(bool, self.choices.values())))
        try:
            tried = {id(finding): self.try_finding(finding, line) for finding in roots}
            marked = tuple(replace(f, tried=tried[id(f)]) for f in self.findings)
            line.show("all together")
            return TriedFindings(findings=order_by_trials(marked), together=self.try_together())
        finally:
            line.clear()

    def try_finding(self, finding: Finding, line: TrialLine) -> Tried | None:
        """The first remedy that is proven; else the last that was tried; None where there is
        none.
        """
        line.show(finding.rule)
        for other, _, tried in self.proven:
            if finding.rule in tried.clears:
                said = f"{finding.rule} is no longer found with the fix of {other.rule}"
                return replace(tried, said=said, patch="")
        last: Tried | None = None
        for remedy in self.choices[id(finding)]:
            tried = self.try_remedy(finding, remedy)
            if last is None or tried.verdict is not Verdict.UNTRIED:
                last = tried
            if tried.verdict is Verdict.PROVEN:
                self.proven.append((finding, remedy, tried))
                break
        return last

    def choose(self, finding: Finding) -> list[Remedy]:
        """What answers a finding; a change of all places first, where its rule has several."""
        found = list(list_remedies(finding, self.evidence, self.request.model))
        several = sum(f.rule == finding.rule for f in self.findings) >= SEVERAL
        return sorted(found, key=lambda r: not r.is_everywhere) if several else found

    def try_remedy(self, finding: Finding, remedy: Remedy) -> Tried:
        """One remedy from the saved state, which is there again afterwards."""
        judge = self._judge_by_loss if remedy.by_loss else self._judge_by_rule
        try:
            tried = judge(finding, remedy)
        except CannotTryError as error:
            tried = Tried(title=remedy.title, verdict=Verdict.UNTRIED, said=str(error))
        except Exception as error:  # what the user's step says of the change
            said = f"{type(error).__name__} is raised then"
            tried = Tried(title=remedy.title, verdict=Verdict.FAILED, said=said)
        finally:
            restore(self.states)
        own = self.request.train_step is not None
        return replace(tried, own_step=own, patch=self._patch(remedy), tidies=remedy.tidies)

    def _patch(self, *remedies: Remedy) -> str:
        """The diff that makes the changes; of two that overlap, the first."""
        program, chosen = UserProgram(request=self.request, around=self.around), list[TextChange]()
        for remedy in remedies:
            changes = list_changes(lambda remedy=remedy: remedy.write(program))  # type: ignore[misc]
            if changes and not any(overlap(a, b) for a in changes for b in chosen):
                chosen += changes
        return write_changes(lambda: chosen)

    def spend(self, cost: int) -> None:
        """Take so many forward-backwards from the budget.

        Raises:
            CannotTryError: they are not left.
        """
        if cost > self.left or time.monotonic() > self.until:
            raise CannotTryError(USED_UP)
        self.left -= cost

    def changed(self, changes: Iterable[Callable[[Subject], None]]) -> Request:
        """The request with changes made."""
        subject = Subject(self.request, self.around, self.states)
        calls = self.evidence.trace.calls
        subject.outermost = calls[0].source if calls and calls[0].fqn is None else ""
        torch.manual_seed(0)  # fresh weights are the same each time
        for change in changes:
            change(subject)
        return subject.finish()

    # -- the loss --------------------------------------------------------------------------------

    def _judge_by_loss(self, finding: Finding, remedy: Remedy) -> Tried:
        """The observed steps again with the remedy; where they do not tell, more of both. What is
        proven by them is observed too: the rule has to find nothing then.
        """
        observed = list_known(step.value for step in self.evidence.steps)[:MOST_STEPS]
        self.spend(max(1, len(observed)))
        before = self.as_it_is or observed
        after = self._run(remedy, len(observed))
        verdict = compare_losses(before[: len(after)], after)
        if verdict is Verdict.USELESS and len(observed) < MOST_STEPS and is_near(before, after):
            first = 0 if len(self.as_it_is) else MOST_STEPS
            with contextlib.suppress(CannotTryError):  # then the first run is what is known
                self.spend(first + MOST_STEPS)
                before, after = self._as_it_is(), self._run(remedy, MOST_STEPS)
                verdict = compare_losses(before, after)
        said, found, steps = say_losses(before, after), None, self.request.steps
        if verdict is Verdict.PROVEN:
            steps = self._choose_steps([finding])
            found = self._find_again(remedy, steps)
        if found is not None and self._is_among(finding, found):
            verdict, said = Verdict.USELESS, f"{finding.rule} is still found; {said}"
        return Tried(
            title=remedy.title,
            verdict=verdict,
            said=said,
            losses=after,
            as_it_is=before,
            clears=self._cleared(found, steps)
            if found is not None and verdict is Verdict.PROVEN
            else (),
        )

    def _run(self, remedy: Remedy, count: int) -> tuple[float, ...]:
        try:
            return run_losses(self.changed([remedy.change]), self.around, max(1, count))
        finally:
            restore(self.states)

    def _as_it_is(self) -> tuple[float, ...]:
        """The losses without a remedy; run once."""
        if not self.as_it_is:
            try:
                self.as_it_is = run_losses(self.request, self.around, MOST_STEPS)
            finally:
                restore(self.states)
        return self.as_it_is

    def _find_again(self, remedy: Remedy, steps: int) -> tuple[Finding, ...] | None:
        """What is found with a remedy of the loss; None where the budget does not reach."""
        try:
            return run_rules(self.observe([remedy.change], steps), self.rules).findings
        except Exception:  # the loss alone was judged
            return None

    # -- the rule --------------------------------------------------------------------------------

    def observe(self, changes: Iterable[Callable[[Subject], None]], steps: int) -> Evidence:
        """What is observed with changes, in so many steps.

        Raises:
            Exception: what the step raises then.
        """
        self.spend(max(1, min(steps, len(self.evidence.steps))) + PROBES + REPLAYED)
        evidence, error = observe_training(replace(self.changed(changes), steps=steps))
        if not evidence.replays:
            self.left += REPLAYED
        if error is not None:
            raise error
        return evidence

    def _choose_steps(self, findings: Iterable[Finding]) -> int:
        """As many as the observation had; few where these are found in few too, so that many steps
        leave a budget for trials.
        """
        whole = self.request.steps
        if whole <= SHORT or (whole <= MOST_STEPS and whole + PROBES <= self.share):
            return whole
        if self.short is None:
            self.short = ()
            try:
                self.short = run_rules(self.observe([], SHORT), self.rules).findings
            except CannotTryError:
                pass
            finally:
                restore(self.states)
        known = {(f.rule, f.kind) for f in self.short}
        is_short = all(
            self._is_among(f, self.short) and (f.rule, f.kind) in known for f in findings
        )
        return SHORT if is_short else whole

    def _judge_by_rule(self, finding: Finding, remedy: Remedy) -> Tried:
        steps = self._choose_steps([finding])
        again = self.observe([remedy.change], steps)
        found = run_rules(again, self.rules).findings
        before = list_known(step.value for step in self.evidence.steps[:steps])
        after = list_known(step.value for step in again.steps)
        makes_finite = are_finite(after) and not are_finite(before)
        verdict, said = self._compare(finding, remedy, found, makes_finite=makes_finite)
        if verdict is Verdict.PROVEN and len(after) > 1 < len(before):
            if remedy.is_comparable and compare_losses(before, after) is Verdict.WORSE:
                verdict, said = Verdict.WORSE, "the loss falls less"
            elif not remedy.is_meant and (
                rises(after) if remedy.is_comparable else runs_away(before, after)
            ):
                verdict, said = (
                    Verdict.USELESS,
                    "the loss still rises" if remedy.is_comparable else "the loss rises then",
                )
            elif not ends_as(remedy.loss_ends, before, after):
                what = "is the same" if remedy.loss_ends == "moved" else "gets no lower"
                verdict, said = Verdict.USELESS, f"{said}, but the loss {what}"
            said += f"; {(say_losses if remedy.is_comparable else say_falls)(before, after)}"
        return Tried(
            title=remedy.title,
            verdict=verdict,
            said=said,
            losses=after,
            as_it_is=before,
            clears=self._cleared(found, steps) if verdict is Verdict.PROVEN else (),
        )

    def _is_among(self, finding: Finding, found: Iterable[Finding]) -> bool:
        """Whether it is found again; of several lines of one module, on its own one."""
        place = (finding.rule, finding.module)
        before = [f for f in self.findings if (f.rule, f.module) == place]
        again = [f for f in found if (f.rule, f.module) == place]
        return len(again) >= max(1, len(before)) or finding.source in {f.source for f in again}

    def _cleared(self, found: Iterable[Finding], steps: int) -> tuple[str, ...]:
        """The rules that find nothing any more; in few steps, of those that found it in few."""
        left = {f.rule for f in found}
        judged = self.findings
        if steps != self.request.steps:
            judged = tuple(f for f in judged if self._is_among(f, self.short or ()))
        return tuple(dict.fromkeys(f.rule for f in judged if f.rule not in left))

    def _compare(
        self, finding: Finding, remedy: Remedy, found: Sequence[Finding], *, makes_finite: bool
    ) -> tuple[Verdict, str]:
        """The verdict over what is found with the remedy, and why."""
        if self._is_among(finding, found):
            return Verdict.USELESS, f"{finding.rule} is still found"
        known = {f.rule for f in (*self.findings, *(self.short or ()))}
        graver = [
            f for f in found if f.rule not in known and _weight(f) >= max(1, _weight(finding))
        ]
        shown = remedy.shows or f"{finding.rule} is no longer found"
        is_bare = all(f.rule in remedy.lays_bare for f in graver)
        if graver and (makes_finite or is_bare):  # what a NaN, say, had hidden is another fault
            return Verdict.PROVEN, f"{shown}; {graver[0].rule} is found then"
        if graver:
            return Verdict.WORSE, f"{graver[0].rule} is found then"
        return Verdict.PROVEN, shown

    # -- all together ------------------------------------------------------------------------------

    def try_together(self) -> Tried | None:
        """All proven remedies at once, where there are several, without what only tidies up."""
        chosen = [remedy for _, remedy, _ in self.proven if not remedy.tidies]
        if len(chosen) < 2:
            return None
        title = "; ".join(dict.fromkeys(remedy.title for remedy in chosen))
        try:
            tried = self._judge_together(title, chosen)
        except CannotTryError as error:  # each of them is proven alone
            tried = Tried(title=title, verdict=Verdict.UNTRIED, said=str(error))
        except Exception as error:  # they do not go together
            said = f"{type(error).__name__} is raised then"
            return Tried(title=title, verdict=Verdict.FAILED, said=said)
        finally:
            restore(self.states)
        return replace(tried, patch=self._patch(*chosen))

    def _judge_together(self, title: str, chosen: list[Remedy]) -> Tried:
        steps = self.request.steps
        if steps > MOST_STEPS or steps + PROBES + REPLAYED > self.left:
            steps = self._choose_steps(finding for finding, _, _ in self.proven)
        again = self.observe([remedy.change for remedy in chosen], steps)
        found = run_rules(again, self.rules).findings
        left = list(dict.fromkeys(f.rule for f in found if f.severity is not Severity.INFO))
        cleared = self._cleared(found, steps)
        before = list_known(step.value for step in self.evidence.steps[:steps])
        after = list_known(step.value for step in again.steps)
        said = (
            f"{len(cleared)} of {len({f.rule for f in self.findings})} kinds of findings are gone"
        )
        if left:
            said += f", and {', '.join(left)} {'is' if len(left) == 1 else 'are'} left"
        if all(remedy.is_comparable for remedy in chosen) and len(after) > 1 < len(before):
            said += f"; {say_losses(before, after)}"
        return Tried(
            title=title,
            verdict=Verdict.PROVEN if cleared else Verdict.USELESS,
            said=said,
            losses=after,
            as_it_is=before,
            own_step=self.request.train_step is not None,
            clears=cleared,
        )


def _weight(finding: Finding) -> int:
    return (finding.severity or Severity.INFO).rank
