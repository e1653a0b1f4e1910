"""An outcome while it is made: what agrees so far, and what differs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cnnprobe.comparison.mapping import NameMapping, map_names
from cnnprobe.comparison.structure import Aligned, count_parameters, find_structural_differences
from cnnprobe.records.differences import (
    LEVELS,
    Difference,
    Discrepancy,
    Outcome,
    describe_discrepancy,
    describe_place,
)
from cnnprobe.records.totals import Totals, add_up
from cnnprobe.records.trace import Trace

STRUCTURE = LEVELS[:4]


@dataclass(slots=True)
class Draft:
    """An outcome while it is made."""

    aligned: Aligned
    names: NameMapping
    levels: dict[str, bool | None] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        level: str,
        position: int,
        message: str,
        discrepancy: Discrepancy | None = None,
        *,
        inputs_equal: bool | None = None,
    ) -> None:
        """One more difference at a position of the pairs."""
        places = ["", ""]
        if position < len(self.aligned.alignment.pairs):
            pair = self.aligned.alignment.pairs[position]
            places[0] = (
                describe_place(self.aligned.actual[pair.actual]) if pair.actual is not None else ""
            )
            places[1] = (
                describe_place(self.aligned.expected[pair.expected])
                if pair.expected is not None
                else ""
            )
        self.differences.append(
            Difference(
                level=level,
                position=position,
                actual=places[0],
                expected=places[1],
                message=message,
                inputs_equal=inputs_equal,
                discrepancy=discrepancy,
            )
        )

    def add_found(self, level: str, position: int, where: str, found: str | Discrepancy) -> None:
        """One more difference, told by what was found there."""
        text, discrepancy = (
            (found, None) if isinstance(found, str) else (describe_discrepancy(found), found)
        )
        self.add(level, position, f"{where}: {text}", discrepancy)

    @property
    def end(self) -> int:
        """The position of what belongs to no pair."""
        return len(self.aligned.alignment.pairs)


def start_draft(aligned: Aligned) -> Draft:
    """The draft of two aligned passes: their structure is compared, their values are not."""
    draft = Draft(aligned, map_names(aligned))
    draft.differences += find_structural_differences(aligned)
    apart = {difference.level for difference in draft.differences}
    draft.levels.update({level: level not in apart for level in STRUCTURE})
    draft.notes += draft.names.notes
    for side, which in enumerate(("actual", "expected")):
        idle = [
            pair
            for pair in aligned.alignment.pairs
            if (pair.actual, pair.expected)[side] is not None
            and (pair.actual, pair.expected)[1 - side] is None
        ]
        for pair in idle:
            operation = (
                aligned.actual[pair.actual]
                if pair.actual is not None
                else aligned.expected[pair.expected or 0]
            )
            if operation.name == "identity":
                draft.notes.append(
                    f"{describe_place(operation)} of the {which} model does nothing, and has no "
                    "counterpart"
                )
    return draft


def map_positions(draft: Draft) -> dict[str, int]:
    """Parameter name in the actual model -> the position of the first operation that uses it."""
    found: dict[str, int] = {}
    for k, pair in enumerate(draft.aligned.alignment.pairs):
        for name in (
            draft.aligned.actual[pair.actual].parameters.values() if pair.actual is not None else ()
        ):
            found.setdefault(name, k)
    return found


def has_equal_inputs(aligned: Aligned, position: int, apart: Mapping[int, object]) -> bool:
    """Whether everything that went into this pair was compared and equal, or is the model's own
    input: then the divergence begins here.
    """
    pairs = aligned.alignment.pairs
    at = {pair.actual: k for k, pair in enumerate(pairs) if pair.actual is not None}
    pair = pairs[position]
    if pair.actual is None or pair.expected is None:
        return False
    ours, theirs = aligned.actual[pair.actual].sources, aligned.expected[pair.expected].sources
    if len(ours) != len(theirs):
        return False
    for mine, other in zip(ours, theirs, strict=True):
        if mine is None or other is None:
            if mine is not other:
                return False
        elif (
            at[mine] in apart
            or pairs[at[mine]].expected is None
            or (pairs[at[mine]].expected != other and len(ours) == 1)
        ):
            return False
    return True


def build_outcome(draft: Draft, models: Sequence[str], wanted: Sequence[str]) -> Outcome:
    """The finished outcome; a level that was not wanted stays None."""
    aligned = draft.aligned
    return Outcome(
        actual=models[0],
        expected=models[1],
        actual_operations=aligned.actual,
        expected_operations=aligned.expected,
        pairs=aligned.alignment.pairs,
        levels={level: draft.levels.get(level) if level in wanted else None for level in LEVELS},
        differences=tuple(sorted(draft.differences, key=_find_moment)),
        mapping=dict(_add_aliases(aligned.traces[0], draft.names.names)),
        unmapped=draft.names.unmapped,
        parameters=(count_parameters(aligned.traces[0]), count_parameters(aligned.traces[1])),
        costs=_pair_costs(add_up(aligned.traces[0]), add_up(aligned.traces[1])),
        notes=tuple(dict.fromkeys(draft.notes)),
    )


def _pair_costs(actual: Totals, expected: Totals) -> dict[str, tuple[int, int]]:
    names = ("trainable", "macs", "counted", "operations", "activation_bytes")
    return {name: (getattr(actual, name), getattr(expected, name)) for name in names}


def _find_moment(difference: Difference) -> tuple[bool, int, int]:
    """When it is met: along the forward pass, then backwards, where gradients come to the last
    operation first.
    """
    backwards = difference.level in ("gradients", "autograd")
    return (
        backwards,
        -difference.position if backwards else difference.position,
        LEVELS.index(difference.level),
    )


def _add_aliases(trace: Trace, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for parameter in trace.parameters:
        if parameter.fqn in names:
            for name in (parameter.fqn, *parameter.aliases):
                yield name, names[parameter.fqn]
