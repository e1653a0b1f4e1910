"""Trials of candidates on copies: of the forward, the loss, the backward, and by themselves.

It runs copies of the model, never the user's own, at most twenty times. It is the only place that
says what came of a trial: "tried: ...".
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeName
from cnnprobe.crash.edits.outside import Advice, ChangeLoss, Check
from cnnprobe.crash.facts.heads import replace_outputs
from cnnprobe.crash.facts.losses import list_losses
from cnnprobe.crash.facts.placement import find_autocast
from cnnprobe.crash.facts.words import count_elements, count_of
from cnnprobe.crash.model_copy import ModelCopy, ShadowRun, copy_model
from cnnprobe.crash.suspect import Candidate, Suspect
from cnnprobe.operations import find

MOST_FORWARDS = 20
_MOST_ENTRIES = 4  # of a dict that the forward gives
SMALL_MODEL = 4_000_000  # elements of parameters that are copied rather than shadowed on meta
SMALL_INPUT = 100_000  # elements of its input: 8 images of 3 x 64 x 64


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A candidate that was tried, with what came of it."""

    suspect: Suspect
    candidate: Candidate
    works: bool
    is_plausible: bool = False  # what came out looks like what the model is for
    said: str = ""  # what was seen: "the forward passes and gives (2, 10)"
    outcome: ShadowRun | None = None  # of the forward, where one was run

    @property
    def tried(self) -> str:
        """What was tried and seen, as a repair shows it."""
        return f"tried: {self.said}" if self.said else ""


class Trials:
    """Copies on which the crash happens as it did, and how often they may still be run."""

    def __init__(self, crash: Crash, *, budget: int = MOST_FORWARDS) -> None:
        self.crash = crash
        self.left = budget
        self.notes: list[str] = []
        self.baseline: ShadowRun | None = None
        self.copy: ModelCopy | None = None  # crashes as the model did; None: there is no such copy
        self.meta = True
        if crash.stage == "forward":
            self._set_up()

    def _set_up(self) -> None:
        """Make the copy that crashes where the model did: on meta if that shows it, else real."""
        for meta in list_worlds(self.crash):
            copy = self._copy_model(meta=meta, grad=torch.is_grad_enabled())
            if copy is None or self.left <= 0:
                continue
            self.left -= 1
            outcome = copy.run()
            if not outcome.works and _fails_alike(self.crash, outcome):
                self.copy, self.baseline, self.meta = copy, outcome, meta
                return
        self.notes.append(
            "no repair was tried: the model could not be copied, or its copy does not crash as it "
            "did"
        )

    def _copy_model(self, *, meta: bool, grad: bool) -> ModelCopy | None:
        crash = self.crash
        if crash.model is None:
            return None
        copy = copy_model(crash.model, crash.args, crash.kwargs, meta=meta, grad=grad)
        if copy is not None and not torch.is_autocast_enabled("cpu"):
            copy.autocast = find_autocast(crash)
        return copy

    # -- one forward ---------------------------------------------------------------------------

    def run(self, edits: Sequence[Edit], copy: ModelCopy | None = None) -> ShadowRun | None:
        """One forward with these edits, which are taken back.

        None where they cannot be made, or no forward is left.
        """
        if (copy := copy or self.copy) is None or self.left <= 0:
            return None
        self.left -= 1
        kept = len(copy.undo)  # edits against a first fault, behind which this one was found
        try:
            copy.apply(edits)
            return copy.run()
        except Exception:  # an edit that does not fit this model is no repair
            return None
        finally:
            copy.reset(kept)

    # -- one candidate -------------------------------------------------------------------------

    def attempt(self, suspect: Suspect, candidate: Candidate) -> Attempt | None:
        """Try a candidate at the stage that raised; None where it cannot be tried."""
        edits = candidate.edits
        if any(isinstance(edit, Advice) for edit in edits):
            return None
        if all(isinstance(edit, Check) for edit in edits):
            return self._check(suspect, candidate)
        if self.crash.stage == "backward" and not list_losses(self.crash):
            return self._backward(suspect, candidate)
        way = self._forward if self.crash.stage == "forward" else self._loss
        return way(suspect, candidate)

    def _check(self, suspect: Suspect, candidate: Candidate) -> Attempt:
        """What is tried by itself, without the model: it says what it saw, or raises."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seen = [edit.check() for edit in candidate.edits if isinstance(edit, Check)]
        except Exception as error:  # it does not mend it: the sentence says so
            said = f"{type(error).__name__} is raised then"
            return Attempt(suspect=suspect, candidate=candidate, works=False, said=said)
        said = "; ".join(filter(None, seen))
        return Attempt(
            suspect=suspect,
            candidate=candidate,
            works=bool(said),
            is_plausible=bool(said),
            said=said,
        )

    def _forward(self, suspect: Suspect, candidate: Candidate) -> Attempt | None:
        outcome = self.run(candidate.edits)
        return None if outcome is None else self.judge_forward(suspect, candidate, outcome)

    def judge_forward(self, suspect: Suspect, candidate: Candidate, outcome: ShadowRun) -> Attempt:
        """What a forward with a candidate's edits comes to."""
        before = sum(p.numel for p in self.crash.trace.parameters if p.kind == "parameter")
        after = outcome.parameters
        said = _describe_forward(outcome) + (
            f"; {after:,} parameters unchanged"
            if after == before
            else f"; {after:,} parameters instead of {before:,}"
        )
        if self.meta and self.crash.trace.mode != "meta":
            said += "; on meta, by shapes alone"
        return Attempt(
            suspect=suspect,
            candidate=candidate,
            works=outcome.works,
            is_plausible=is_plausible(self.crash, outcome, candidate.edits),
            said=said if outcome.works else "",
            outcome=outcome,
        )

    def _loss(self, suspect: Suspect, candidate: Candidate) -> Attempt | None:
        """The loss with other arguments; after another forward, where an edit is of the model."""
        changes = [edit for edit in candidate.edits if isinstance(edit, ChangeLoss)]
        of_model = [edit for edit in candidate.edits if not isinstance(edit, ChangeLoss)]
        losses = list_losses(self.crash)
        if (loss := changes[0].loss if changes else losses[-1] if losses else None) is None:
            return None
        outcome: ShadowRun | None = None
        outputs: dict[str, Any] = {}
        if of_model:
            outcome = self._run_for_loss(of_model)
            if outcome is None:
                return None
            if not outcome.works:
                return Attempt(suspect=suspect, candidate=candidate, works=False, outcome=outcome)
            outputs = replace_outputs(loss, self.crash, outcome)
            if not outputs:
                return None
        said = "the loss" if loss.is_whole else loss.shown
        if outcome is not None:
            said = f"{_describe_forward(outcome)}; {said}"
        try:
            value = loss.call(changes, outputs)
        except Exception as error:  # it does not mend it: the sentence says so
            raised = f"{type(error).__name__} is raised then"
            return Attempt(
                suspect=suspect, candidate=candidate, works=False, said=raised, outcome=outcome
            )
        values = [t for t in tree_leaves(value) if isinstance(t, Tensor)]
        is_reduced = loss.arguments.get("reduction") != "none"
        return Attempt(
            suspect=suspect,
            candidate=candidate,
            works=True,
            is_plausible=all(t.numel() == 1 for t in values) or not is_reduced or not loss.is_whole,
            said=f"{said} passes and gives {', '.join(map(_show, values[:3])) or value}"
            + _mention_meta(outcome),
            outcome=outcome,
        )

    def _run_for_loss(self, edits: Sequence[Edit]) -> ShadowRun | None:
        """The forward with edits in the first world where it passes."""
        outcome = None
        for meta in list_worlds(self.crash):
            outcome = self.run(edits, self._copy_model(meta=meta, grad=False)) or outcome
            if outcome is not None and outcome.works:
                return outcome
        return outcome

    def _backward(self, suspect: Suspect, candidate: Candidate) -> Attempt | None:
        """Forward and backward on a real copy, as often as the candidate needs."""
        if (passed := self.run_backward(candidate.edits)) is None:
            return None
        said = "forward and backward pass on a copy of the model" if passed else ""
        return Attempt(
            suspect=suspect, candidate=candidate, works=passed, is_plausible=passed, said=said
        )

    def run_backward(self, edits: Sequence[Edit]) -> bool | None:
        """Whether forward and backward pass on a real copy with these edits; None: cannot try."""
        has_arguments = bool(self.crash.args or self.crash.kwargs)
        copy = self._copy_model(meta=False, grad=True) if has_arguments else None
        if copy is None or self.left <= 0:
            return None
        self.left -= 1
        try:
            copy.apply(edits)
            return all(copy.backward() for _ in range(max(edit.steps for edit in edits)))
        except Exception:  # the edit does not fit, or does not mend it
            return False
        finally:
            copy.reset()


def list_dicts(output: Any) -> list[Mapping[str, Any]]:
    """The dicts of a list that holds nothing else: what a detector gives, one for each image."""
    is_list = isinstance(output, list | tuple) and all(isinstance(one, Mapping) for one in output)
    return list(output) if is_list else []


def _describe_dict(entries: Mapping[str, Any]) -> str:
    shapes = {str(key): tuple(t.shape) for key, t in entries.items() if isinstance(t, Tensor)}
    is_scalar = not any(shapes.values())
    shown = [key if is_scalar else f"{key} {shape}" for key, shape in shapes.items()]
    more = f" and {len(shown) - _MOST_ENTRIES} more" if len(shown) > _MOST_ENTRIES else ""
    start = f"of {count_of(len(shown), 'scalar')}: " if is_scalar else "with "
    return start + ", ".join(shown[:_MOST_ENTRIES]) + more


def _describe_forward(outcome: ShadowRun) -> str:
    dicts = list_dicts(outcome.output)
    if isinstance(outcome.output, Mapping) and outcome.shapes:
        return f"the forward passes and gives a dict {_describe_dict(outcome.output)}"
    if dicts and outcome.shapes:
        count = count_of(len(dicts), "dict") + (", the first" if len(dicts) > 1 else "")
        return f"the forward passes and gives a list of {count} {_describe_dict(dicts[0])}"
    gives = ", ".join(map(str, outcome.shapes[:3])) + (", ..." if len(outcome.shapes) > 3 else "")
    return f"the forward passes and gives {gives or 'no tensor'}"


def _mention_meta(outcome: ShadowRun | None) -> str:
    leaves = tree_leaves(outcome.output) if outcome is not None else []
    is_meta = any(isinstance(t, Tensor) and t.is_meta for t in leaves)
    return "; on meta, by shapes alone" if is_meta else ""


def _show(value: Tensor) -> str:
    """A loss in words: its value, or its shape where it is not one number."""
    if value.numel() == 1 and not value.is_meta:
        return f"{float(value.detach()):.4g}"
    return f"a tensor of shape {tuple(value.shape)}"


def list_worlds(crash: Crash) -> tuple[bool, ...]:
    """Where to copy first, on meta (True) or for real, and where next.

    Devices can be at fault only for real: there is one device on meta. So can values.
    """
    if crash.call is not None and crash.call.kind == "torch._assert":  # it looked at values
        return (False, True)
    devices = {p.device for p in crash.trace.parameters}
    devices |= {t.device for t in (*crash.root_inputs, *crash.inputs)}
    if len(devices) > 1:
        return (False,)
    # A small copy runs faster than torch imports what its meta kernels need, and it sees values,
    # dtypes and branches as they are.
    elements = sum(p.numel for p in crash.trace.parameters)
    inputs = sum(count_elements(t.shape) for t in crash.root_inputs)
    is_small = elements <= SMALL_MODEL and inputs <= SMALL_INPUT
    return (False, True) if is_small else (True, False)


def _fails_alike(crash: Crash, outcome: ShadowRun) -> bool:
    failure = outcome.trace.failure
    if failure is None:  # it ran through on meta, but a layer was given what it would have refused
        return not outcome.works
    if failure.call is None or crash.index is None:
        return failure.call == crash.index
    here, there = outcome.trace.calls[failure.call], crash.trace.calls[crash.index]
    same = (here.fqn, here.kind, here.index) == (there.fqn, there.kind, there.index)
    return same and failure.call == crash.index


def is_plausible(crash: Crash, outcome: ShadowRun, edits: Sequence[Edit] = ()) -> bool:
    """Whether what came out looks like what the model is for.

    There is a row for each sample, and logits where the last layer makes logits.
    """
    if crash.line is not None:
        changes = {edit.name: edit.function for edit in edits if isinstance(edit, ChangeName)}
        return outcome.works and crash.line.follows(outcome.output, changes)
    if not outcome.works or not outcome.shapes or not outcome.trace.calls:
        return False
    if list_dicts(outcome.output):  # what a detector gives has no row for each sample
        return True
    first, inputs = outcome.shapes[0], outcome.trace.calls[0].inputs
    is_image = bool(inputs) and len(inputs[0].shape) >= 4
    recurrent = nn.RNNBase | nn.MultiheadAttention
    is_sequence = len(first) == 3 and (
        any(isinstance(m, recurrent) for m in crash.modules.values()) or _has_tokens(crash)
    )
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None
    batches = {batch, *inputs[0].shape[1:2]} if _is_time_major(crash) else {batch}
    if batch is not None and first and batches.isdisjoint(first[: 2 if is_sequence else 1]):
        return False
    if (last := _find_last_linear(crash, outcome)) is None or not first:
        return True
    if last.out_features == 1 and first == (batch,):  # one value for each sample, without a dim
        return True
    return first[-1] == last.out_features and (not is_image or len(first) == 2 or is_sequence)


def _has_tokens(crash: Crash) -> bool:
    """Whether a Linear had been given rows of tokens before the crash: (N, L, C)."""
    layers = [c for c in crash.trace.calls if isinstance(crash.modules.get(c.fqn or ""), nn.Linear)]
    return any(c.inputs and c.outputs and len(c.inputs[0].shape) == 3 for c in layers)


def _is_time_major(crash: Crash) -> bool:
    """Whether its recurrent layers and attentions take the time before the batch."""
    found = [getattr(m, "batch_first", None) for m in crash.modules.values()]
    return False in found and True not in found


def _find_last_linear(crash: Crash, outcome: ShadowRun) -> nn.Linear | None:
    """The Linear that made the output; None where another layer with weights came after it."""
    for call in reversed(outcome.trace.calls):
        ranks = {len(t.shape) for t in call.inputs if len(t.shape) > 1}
        info = find(call) if call.fqn is None else None
        maps = [t.shape[2:] for t in call.inputs if len(t.shape) > 2]
        is_single = any(set(m) == {1} for m in maps) and not all(set(m) == {1} for m in maps)
        is_gate = (2 in ranks and max(ranks) > 2) or is_single  # rows joined with a map
        if info is not None and (is_gate or info.effect == "products"):
            return None
        if info is not None and info.name in ("view", "reshape", "unflatten"):
            return None  # rows of features made into maps
        if call.fqn is None:
            continue
        if (module := crash.modules.get(call.fqn)) is None:  # the edits registered it
            return None
        if not module._modules and module._parameters:
            return module if isinstance(module, nn.Linear) else None
    return None
