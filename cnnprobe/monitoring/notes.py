"""What a watch could not observe, in sentences."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from torch import nn

from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.peers import is_of_peers
from cnnprobe.records.ledger import Ledger
from cnnprobe.records.ranks import LEFT_BY, RankInfo

_SAID = 160  # characters of an exception's message
_SKIPPED = "steps in which the optimizer made none: "
_RENEWED = ("rank ", _SKIPPED)  # sentences of which the latest counts


def describe(
    model: nn.Module, wiring: Wiring, known: Collection[int], skipped: tuple[int, Sequence[int]]
) -> Iterator[str]:
    """What was not observed so far; `known` are the ids of the modules that have hooks,
    `skipped` in how many steps no optimizer made one, and the first of them.
    """
    if wiring.recomputed:
        calls, names = sum(wiring.recomputed.values()), list(wiring.recomputed)
        yield (
            f"{calls} calls of {len(names)} modules (the first is '{names[0]}') were made again in "
            "backward passes by activation checkpointing; they are not counted"
        )
    late = [fqn for fqn, module, _ in named_modules(model) if id(module) not in known]
    if late:
        yield (
            f"{late[0]!r}"
            + (f" and {len(late) - 1} more modules" if len(late) > 1 else "")
            + (
                " came into the model after monitor() was called: call the model once before, "
                "to have them observed"
            )
        )
    if wiring.strangers:
        yield (
            f"{wiring.strangers} calls on other threads, or of copies of the model, were not "
            "observed"
        )
    if skipped[0]:
        yield (
            f"{_SKIPPED}{skipped[0]} (the first is {skipped[1][0]}); a GradScaler skips steps "
            "after an overflow, otherwise give monitor() the optimizer that the loop uses"
        )
    if wiring.ledger.rank is not None:
        yield _describe_rank(wiring.ledger.rank)


def describe_exception(error: BaseException, step: int) -> str:
    """By what the block was left, and in which step; LEFT_BY says that it began on this rank."""
    said = "".join(f": {line[:_SAID]}" for line in str(error).strip().splitlines()[:1])
    begun = "another rank did not answer: " if is_of_peers(error) else ""
    return f"{begun}{LEFT_BY}{type(error).__name__} in step {step}{said}"


def _describe_rank(info: RankInfo) -> str:
    said = (
        f"rank {info.rank} of {info.of}: activations, their gradients and the loss are local, of "
        "this rank's part of the batch"
    )
    if info.sharded:
        return f"{said}; of sharded parameters, the part that this rank holds is read"
    return said


def renew(ledger: Ledger, notes: Iterable[str]) -> None:
    """Write the notes down; counts change: the sentence of an earlier count goes."""
    for note in notes:
        start = note.lstrip("0123456789")
        for old in [
            old for old in ledger.notes if old.lstrip("0123456789") == start or _same(old, note)
        ]:
            del ledger.notes[old]
        ledger.notes[note] = None


def _same(old: str, new: str) -> bool:
    return any(old.startswith(start) and new.startswith(start) for start in _RENEWED)
