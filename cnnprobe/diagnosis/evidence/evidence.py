"""What is known of a model and its training, as frozen plain data: the one thing that rules
read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnnprobe.diagnosis.evidence.asked import OwnCode
from cnnprobe.diagnosis.evidence.batch import BatchFacts
from cnnprobe.diagnosis.evidence.beside import Companion, LeftBehind
from cnnprobe.diagnosis.evidence.texts import Texts
from cnnprobe.records.trace import TensorInfo, Trace

NOTHING: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A tensor that `backward` was called on, and the autograd graph behind it."""

    value: float | None  # None: not a single finite or infinite number
    shape: tuple[int, ...] = ()
    call: int | None = None  # the row of the step's trace that made it
    # parameters of the model, and hidden tensors, that the graph ends at
    reached: frozenset[str] = frozenset()
    foreign: int = 0  # other leaves that it ends at
    nodes: frozenset[int] = frozenset()  # autograd sequence numbers of its graph
    complete: bool = True  # False: the graph is too large to be walked
    # what a GradScaler has multiplied it by before the backward; `value` is without it
    scale: float = 1.0
    sign: int = 1  # -1: backward was given a negative gradient, as -1; 0: one of both signs
    # parameters of the model that the optimizers hold which step with its gradients
    trained: frozenset[str] = frozenset()
    # autograd sequence numbers of the terms of its sum that reach nothing that is stepped with,
    # while others do
    idle: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that the training loop did: "train", "eval", "zero_grad", "backward", "clip",
    "step", "schedule", "scale", "unscale", "grad", "boxes" (that are none).
    """

    kind: str
    # the user's name of the model, optimizer or scheduler; of a backward, the function that calls
    subject: str = ""
    # of the first group after a "schedule"; the highest of a "step"; what a "scale" multiplies by;
    # the share that a "clip" leaves
    rate: float | None = None
    # a clip that had gradients to clip, a step that had some to use; a train or eval of the root;
    # a grad with create_graph
    effective: bool = True
    fresh: bool = False  # a step that gave its optimizer the first state that it has
    # what a "schedule" that waits for a larger number was given
    metric: float | None = None
    source: str = ""  # the line of the call, of "train", "eval" and "boxes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradient:
    """The gradient of one parameter after the backward passes of one step."""

    norm: float
    nonfinite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What becomes of the results of a step's rows, beside what further rows and backward do."""

    # rows whose values were taken out of torch, each with the number; NaN: no single one
    reads: tuple[tuple[int, float], ...] = ()
    held: frozenset[int] = frozenset()  # rows whose results somebody holds after the step
    # autograd sequence numbers of the graphs that torch.autograd.grad went through
    differentiated: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of the training step on the same batch: its rows, its events, and what it did to the
    parameters.
    """

    trace: Trace
    events: tuple[Event, ...] = ()
    losses: tuple[Loss, ...] = ()
    gradients: Mapping[str, Gradient] = field(default_factory=dict)
    stale: tuple[
        str, ...
    ] = ()  # parameters that came into the first backward with a gradient from before the last step
    # an optimizer, that other one whose loss had left it gradients, how many it used
    mixed: tuple[str, str, int] | None = None
    changes: Mapping[str, float] = field(
        default_factory=dict
    )  # L2 norm of what was added to each parameter; empty where not measured
    stepped: Mapping[str, float] = field(
        default_factory=dict
    )  # the same right after the last optimizer's step, of what it holds
    # rows along dim 0 of a weight whose gradient was exactly 0 in this step and all before it
    silent: Mapping[str, int] = field(default_factory=dict)
    # backward passes whose gradients were cleared before a step that used those of a later one
    wasted: int = 0
    training: bool = True  # the mode of the root at the first backward
    alive: int = 0  # graphs of earlier steps that somebody still holds
    keepers: tuple[str, ...] = ()  # who does: "an item of the list 'losses' of ..."
    uses: Uses | None = None  # None: not observed
    beside: tuple[Companion, ...] = ()  # parameters of the loop's other modules
    # the multiple of a weight that the loop's own code adds to its gradient behind the backward
    decayed: Mapping[str, float] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[tuple[int, float], ...]:
        """The rows whose values were taken out of torch; none where that was not observed."""
        return () if self.uses is None else self.uses.reads

    @property
    def value(self) -> float | None:
        """The loss of the step's last backward."""
        return self.losses[-1].value if self.losses else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What a parameter or buffer holds before the first step."""

    shape: tuple[int, ...]
    norm: float
    mean: float
    std: float
    low: float
    high: float
    nonfinite: int = 0
    infinite: int = 0  # of these, Inf and not NaN
    distinct_rows: int | None = None  # among the rows along dimension 0; None for vectors
    # whether its values are independent random numbers; None where it is no frozen table
    random: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerInfo:
    """An optimizer against the model's registry."""

    name: str  # the user's variable
    kind: str
    rates: tuple[float, ...] = ()
    parameters: frozenset[str] = frozenset()
    foreign: tuple[
        tuple[int, ...], ...
    ] = ()  # shapes of parameters that belong to no module that is known
    maximize: bool = False
    scheduled: bool = False  # a scheduler has taken it over
    weight_decay: float = 0.0
    decoupled: bool = False  # the decay is no part of the gradient (AdamW)
    # the numbers among the options of each group; "betas[0]", "betas[1]" of a pair
    settings: tuple[Mapping[str, float], ...] = ()
    # parameters in groups whose learning rate is 0, while that of another group is not
    resting: frozenset[str] = frozenset()
    searches: bool = False  # each step looks for its own length along a line, as LBFGS may


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What a LambdaLR multiplies a base rate by."""

    name: str  # the user's variable
    base: float
    factors: tuple[float, ...]  # in the first epochs, epoch 0 first


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """A scheduler that was never stepped and counts from a later epoch, with a rate that is not of
    this epoch.
    """

    name: str  # the user's variable
    epoch: int
    rate: float  # of the optimizer
    planned: float  # by the schedule, in this epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Compounding:
    """A scheduler of the user's own that multiplies the current learning rate, each time by a
    larger factor below 1.
    """

    name: str  # the user's variable
    factors: tuple[float, ...]  # in the next steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A module or tensor that hangs on a module without being registered."""

    owner: str  # fqn
    name: str  # "layers[0]", "scale"
    kind: str  # "module" | "parameter" | "tensor"
    type: str
    shape: tuple[int, ...] = ()
    trainable: bool = False
    used: bool = False  # a recorded call read it
    stable: bool = True  # the same object after the forward pass: not a state or a cache
    # what it lies in, the outermost first: "list", "dict", "numbered" (a dict whose keys are no
    # strings)
    containers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleAttribute:
    """An attribute or key that was set on a parameter, module or optimizer and that nothing reads,
    beside the one that torch reads; a method that a statement names and does not call; or a
    backward of a module, which autograd does not call.
    """

    holder: str  # "parameter" | "module" | "optimizer" | "group" | "statement" | "method"
    owners: tuple[str, ...]  # fqns, or the optimizer's variable
    attribute: str
    meant: str
    value: str = ""  # what it was set to, as code
    wanted: str = ""  # what `meant` would have to be
    actual: str = ""  # what `meant` is
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overwritten:
    """A setting of an object of the user's that its own method overwrites."""

    owner: str  # the fqn in the model, or the variable
    module: bool  # whether `owner` is an fqn of the model
    type: str
    attribute: str
    kind: str  # "evaluation": a constant for eval mode; "selection": a part of it; "bound"
    method: str
    text: str  # the statement
    source: str
    before: str  # what it was before the observed steps
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A statement that computes a new tensor and drops it."""

    call: int  # the row of the trace
    statement: str  # as code
    variable: str  # what its result is likely meant for: "scores"; "" where it is not known
    twin: str  # the method that writes to the tensor itself: "masked_fill_"; "" for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """What the outputs of a model see of its input sequence, where the targets are that sequence
    one step on; differences are over the output's size.
    """

    future: float  # of the outputs before `step`, for other inputs from `step` on
    past: float  # of the outputs from `step` on, for other inputs before it
    step: int
    steps: int
    module: str | None  # where the future is seen first
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongDerivative:
    """An autograd function of the user's whose backward gives another derivative than differences
    of its forward.
    """

    name: str
    qualified: str  # with its module
    source: str  # of the backward
    argument: int  # by which it is wrong
    checked: int  # elements
    wrong: int  # of them
    analytic: float  # at the worst of them, by the backward
    numeric: float  # the same by differences
    factor: float | None  # where all are off by the same one
    on_purpose: bool  # its name or text says so
    is_upright: bool = False  # it is called a reversal, and hands the gradient on as it is
    is_deaf: bool = False  # it gives the same gradient whatever comes in


@dataclass(frozen=True, slots=True, kw_only=True)
class Average:
    """How a copy of trained weights changed: copy = (sum - weight) * copy + weight * weights."""

    name: str
    of: str
    weights: tuple[float, ...]  # of the trained weights, a step each
    sums: tuple[float, ...]  # of both weights; 1 in an average
    # steps, from 1, at whose end the trained weights had become the copy's
    overwrites: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """The places along one dim of an input that no output depends on."""

    path: str
    dim: int
    places: tuple[int, ...]
    size: int  # of the dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What further forward passes showed, each in eval mode, each None where it was not made or
    could not be judged.
    """

    # module where other samples changed first, and by how much of the output's spread
    leak: tuple[str | None, float] | None = None
    mixing: tuple[str, str] | None = None  # the call that does it, and its line; "" where not known
    ignored: tuple[str, ...] = ()  # inputs, by path, that change nothing
    rewritten: tuple[str, ...] = ()  # trainable parameters that a pass in eval mode writes to
    unread: tuple[Unread, ...] = ()  # parts of an input that change nothing
    # greatest difference between samples over the output's magnitude; 0 is a constant output
    spread: float | None = None
    spread_after: float | None = None  # the same after the observed steps
    repeat: float | None = None  # greatest difference of two runs over the output's magnitude
    overwritten: tuple[
        int, ...
    ] = ()  # rows of the evaluation trace whose in-place write changes what the model gives
    # kind and line of the rows whose results the model's attributes hold afterwards, or whose
    # values were taken out of torch
    held: frozenset[tuple[str, str]] = frozenset()
    keeps_state: bool = False  # a pass in eval mode leaves something behind for the next one
    mutated: tuple[
        tuple[str, int | None], ...
    ] = ()  # inputs that the forward wrote to, and the row that did
    # modules that a forward pass in train mode calls, where the steps were in eval mode
    called_in_train: frozenset[str] = frozenset()
    # norms that were in eval mode before the first step, in modules that were in train mode
    resting: frozenset[str] = frozenset()
    evaluation_loss: float | None = None
    training_loss: float | None = None  # the same batch in train mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The observed steps again from the same start, with every learning rate times `factor`."""

    factor: float
    losses: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackwardFault:
    """The first place, in the order of the backward pass, where a finite gradient became a
    non-finite one.
    """

    call: int | None  # the row whose derivative it is
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that a rule may look at. What was not observed is empty or None."""

    trace: Trace  # the first step, or one forward pass where no step was made
    evaluation: Trace | None = None  # one forward pass in eval mode
    steps: tuple[Step, ...] = ()
    values: Mapping[str, Values] = field(default_factory=dict)  # of parameters and buffers
    hidden: tuple[Hidden, ...] = ()
    optimizers: tuple[OptimizerInfo, ...] = ()
    probes: Probes = field(default_factory=Probes)
    inputs: tuple[TensorInfo, ...] = ()
    targets: tuple[TensorInfo, ...] = ()
    replays: tuple[Replay, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    restarted: Restarted | None = None
    # learning rate after 100 further scheduler steps over the first, where each batch makes one
    collapse: float | None = None
    compounding: Compounding | None = None
    backward: BackwardFault | None = None
    names: Mapping[str, str] = field(default_factory=dict)  # "model" -> "net": the user's variables
    # "output['logits']": the part of a nested output that the loss was given; "": the output itself
    given: str = ""
    # of the classes of a loss with class weights: their share of the targets, and their weight
    class_weights: tuple[tuple[float, float], ...] = ()
    batch: BatchFacts = field(default_factory=BatchFacts)
    # what was set on torch's objects without an effect
    idle: tuple[IdleAttribute, ...] = ()
    foresight: Foresight | None = None
    code: OwnCode = field(default_factory=OwnCode)
    dropped: tuple[Dropped, ...] = ()  # rows of `trace`
    texts: Texts = field(default_factory=Texts)  # what the text of the program says
    derivatives: tuple[WrongDerivative, ...] = ()
    averages: tuple[Average, ...] = ()
    left: tuple[LeftBehind, ...] = ()
    overwritten: tuple[Overwritten, ...] = ()
    # of the last layers, where the first loss is high: those whose weights are no independent
    # random numbers
    learnt: frozenset[str] = frozenset()
    own_loop: bool = False  # the steps are those of the user's own train_step
