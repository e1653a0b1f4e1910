"""What the text of the user's program says of what runs: as data, for rules."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadName:
    """A name that the text of a function gives a value, and that nothing reads."""

    # "option" of a constructor | "argument" of a function | "variable" | "buffer" | "skip": an
    # input that is kept to be added
    kind: str
    name: str
    function: str  # "Block.forward"
    source: str
    module: str | None = None  # the fqn of the first module of the class
    value: str = ""  # of an option, as code; of a variable, the expression
    # of an option: whether the text has, in another way, what its name speaks of
    is_present: bool = False
    row: int | None = None  # of the first step's trace: what the variable holds, or the call
    # of a variable: whether it is an argument of the function that is only read to be given anew
    is_argument: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OddStatement:
    """A statement that lacks a part which those like it, before and behind it, have."""

    function: str
    module: str | None
    source: str
    text: str
    usual: str  # one of the others
    lacks: str  # the part, as code
    layers: tuple[str, ...]  # that it calls, by their attribute
    lines: tuple[int, ...]  # of the others


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStatement:
    """A statement that loads a checkpoint and does not look whether it fits, or after which the
    weights are drawn anew.
    """

    # "lenient": strict=False, and its answer is dropped | "drawn-anew" | "itself": its own state |
    # "meant": a function that is named for it
    kind: str
    text: str
    source: str
    holder: str  # what is loaded, as code: "model", "self.backbone"
    after: str = ""  # the statement that draws anew
    fit: str = ""  # what makes the checkpoint's names those of the model; "" where not known


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortLoop:
    """A loop over batches that ends in its first round, or begins anew in each step."""

    # "return" | "break" | "first-batch" | "new-order": the first batch of a shuffled loader
    kind: str
    text: str
    source: str
    loop: int  # the line that it ends
    loader: str = ""  # the variable that is begun anew


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptBest:
    """Where a state of the weights is taken for kept, and is not."""

    # of the best state, "reference": the weights themselves | "direction": the worst one | "start":
    # none is better | "overtaken": it was taken before; of an earlier one, "alias": the weights
    kind: str
    text: str
    source: str
    name: str  # the variable of the best value, or of what is kept
    value: str = ""  # what is kept without a copy; what the best value starts with


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A module that the text calls only where a setting says so."""

    module: str  # fqn
    owner: str  # the module that calls it
    by: str  # "self.stage", or an argument of the forward: "task"
    value: str  # of the attribute, as code


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOutput:
    """What an expression of the program does with the output of the model."""

    kind: str  # "gt", "ge", "lt", "le", "eq", "ne", "round", "argmax", "max"
    steps: tuple[str, ...]  # what was done to the output before, in order: "sigmoid", "squeeze"
    value: float | None  # the number that it is compared with; the dim
    is_given: bool  # it is compared with what the function was given, in the shape that it has
    text: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A call of the model under no_grad whose output is compared with labels, where nothing has put
    the model into eval mode.
    """

    function: str  # "": the file itself
    text: str
    model: str  # how the model is named there
    source: str
    is_loop: bool  # it is in a loop over batches, or in the training step


@dataclass(frozen=True, slots=True, kw_only=True)
class Slip:
    """A call or statement that cannot be meant as it stands."""

    # "plateau": its other direction is better | "old-optimizer" | "group-copied" | "swapped" |
    # "misplaced" | "first-step" | "undivided" | "never-reset" | "never-cleared" | "by-batches" |
    # "by-samples" | "evaluation-trains" | "patience" | "repeated-sum" | "counts-batches" |
    # "counts-epochs" | "made-anew" | "taken-off"
    kind: str
    text: str
    source: str
    name: str  # the scheduler; the variable of the group; the swapped arguments; the index; the sum
    value: str = ""  # the mode that fits; the optimizer; the groups; the parameters; the divisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """All that was read; empty where there is no text."""

    unread: tuple[UnreadName, ...] = ()
    odd: tuple[OddStatement, ...] = ()
    loads: tuple[LoadStatement, ...] = ()
    loops: tuple[ShortLoop, ...] = ()
    kept: tuple[KeptBest, ...] = ()
    # the containers, by fqn, that are made of [Layer(...)] * n, with the line that does
    repeated: tuple[tuple[str, str], ...] = ()
    chosen: tuple[Chosen, ...] = ()
    outputs: tuple[ReadOutput, ...] = ()
    measured: tuple[Measured, ...] = ()
    unfreezes: bool = False  # a statement lets parameters require grad, or may
    slips: tuple[Slip, ...] = ()
