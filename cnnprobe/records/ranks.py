"""What one rank of a distributed training says of itself, so that ranks can be compared, and what
is said of each of them in the report of all. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

STAGES = ("data", "forward", "loss", "backward", "reduction", "update")
"""The parts of a training step, in their order: until the model is called, its forward, until the
gradient of its last parameter, until that of its first one, until the optimizer steps (which waits
for the reduction of gradients), the optimizer's step. Where the first parameter gets no gradient
after the last one, there is no reduction, and backward has its time.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """One rank, and how its model is distributed."""

    rank: int
    of: int  # how many there are
    host: str = ""
    wrapper: str = ""  # "DistributedDataParallel", "FSDP2", or "" where none was seen
    options: Mapping[str, bool] = field(default_factory=dict)  # of the wrapper
    parameters: tuple[str, ...] = ()  # that every rank has as a whole
    buffers: tuple[str, ...] = ()
    sharded: tuple[str, ...] = ()  # parameters of which this rank holds a part
    is_copy: bool = False  # its parts are those that another rank holds too
    norms: tuple[str, ...] = ()  # BatchNorm modules that see the batch of this rank alone
    gradient_bytes: int = 0  # that a reduction of all gradients sends
    run: str = ""  # the same on all ranks of one process group; "" where there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """What one rank did in one observed step. `parameters` and `buffers` are what its forward
    began with.
    """

    step: int
    samples: int | None = None  # in its batch
    batch: int | None = None  # hash of its batch
    random: int | None = None  # hash of the random generator's state at the beginning
    seconds: Mapping[str, float] = field(default_factory=dict)  # by STAGES
    # of them, those that its thread stood in the queue for a processor; None: not known
    queued: Mapping[str, float] | None = None
    parameters: str = ""  # a hash each, eight hexadecimal digits, in the order of `RankInfo`
    buffers: str = ""
    without_gradient: tuple[str, ...] = ()
    passes: int = 0  # backward passes
    reduced: int = 0  # those of them after which the gradients were reduced
    # gradient of one parameter on this rank, as one number; of some steps alone
    local: float | None = None
    used: float | None = None  # the same number of the gradient that the optimizer got


def leave_last_out(said: Mapping[int, RankStep]) -> Mapping[int, RankStep]:
    """What ranks say of one step, without those whose run was over before it: what becomes of
    parameters after a run, as by join() or the best checkpoint, is no fault. All, where it was over
    for each of them.
    """
    return {rank: step for rank, step in said.items() if step.seconds} or said


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLog:
    """All that one rank says of itself."""

    info: RankInfo
    # the observed ones; a last one after the run has its parameters alone
    steps: tuple[RankStep, ...] = ()
    loss_scale: float | None = None  # gradient that the loss got in the backward passes of a step
    finished: bool = False  # the block was left; False for a run that was killed


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSummary:
    """One rank in the report of all ranks."""

    rank: int
    host: str = ""
    total: int = 0  # steps that it made
    finished: bool = True
    loss: float | None = None  # the last one
    samples: int | None = None  # of its last batch
    seconds: Mapping[str, float] = field(default_factory=dict)  # by STAGES: median
    nonfinite: str = ""  # where it first met a NaN or Inf


LEFT_BY = "the block was left by "
"""How the note begins of a run that an exception has ended."""

_KEPT = 4096  # observed steps of which memory has all; of more the oldest ones go, not the first
_SHARED = ("gradient norm", "update ratio")  # curves that are of the parameters


def keep_step(steps: list[RankStep], step: RankStep) -> None:
    """Append a step; half of the older ones go where they are many, the first one stays."""
    steps.append(step)
    if len(steps) > _KEPT:
        del steps[1 : _KEPT // 2]


def name_owner(info: RankInfo | None, fqn: str) -> str:
    """Whose the number of a module or parameter is, where there are several ranks.

    >>> info = RankInfo(rank=1, of=2, wrapper="DistributedDataParallel", parameters=("fc.weight",))
    >>> name_owner(info, "fc"), name_owner(info, "fc.weight"), name_owner(None, "fc")
    ('rank 1', 'all ranks', '')
    """
    if info is None:
        return ""
    if fqn in info.sharded:
        return f"rank {info.rank}, its part"
    return "all ranks" if info.wrapper and fqn in info.parameters else f"rank {info.rank}"


def name_owner_of_curve(info: RankInfo | None, name: str) -> str:
    """Whose a curve is, where there are several ranks."""
    if info is None:
        return ""
    if name in _SHARED and info.sharded:
        return f"rank {info.rank}, its part"
    return "all ranks" if info.wrapper and name in _SHARED else f"rank {info.rank}"


def split_hashes(text: str) -> list[str]:
    """The hashes in a text, one for each tensor.

    >>> split_hashes("0000000a0000000b")
    ['0000000a', '0000000b']
    """
    return [text[i : i + 8] for i in range(0, len(text), 8)]
