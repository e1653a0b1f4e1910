"""What is known of the data that a loader gives, as frozen plain data: the one thing that the rules
of the data read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnprobe.data.clues import Clues, Strangers, Turned
from cnnprobe.data.expectation import Expectation
from cnnprobe.data.image_facts import Images, Range
from cnnprobe.data.object_facts import Boxes, Fit, Masks, Points
from cnnprobe.data.spots import SamePicture, Spotted

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What all samples of a part hold; mean, std (population), low and high of the finite
    values.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float
    zeros: int = 0
    nan: int = 0
    inf: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """The finite values of one channel of the images."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the batch: the images, the labels, the boxes."""

    path: str  # "[0]", "['image']", "[1]['boxes']"
    role: (
        str  # "image", "class", "classes", "multilabel", "value", "mask", "boxes", "text", "other"
    )
    dtypes: tuple[tuple[str, int], ...] = ()  # with the number of samples, the most frequent first
    # Of a sample, with their number; of images with the channels first, also where they come last.
    shapes: tuple[tuple[Shape, int], ...] = ()
    numbers: Numbers | None = None
    channels: tuple[Channel, ...] = ()  # of images
    values: tuple[tuple[float, int], ...] = ()  # that were met, with their number; at most 512
    whole: bool = False  # all values are whole numbers
    channels_last: bool = False  # images come as (H, W, C)
    same_as: str = ""  # path of an earlier part that holds the same images, to the bit
    # of numbers to be predicted: the extreme value that stands far from all others, with its number
    mark: tuple[float, int] | None = None

    @property
    def dtype(self) -> str:
        """The most frequent dtype; "" where there is none."""
        return self.dtypes[0][0] if self.dtypes else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The numbers by which a sampler weighs samples."""

    weights: int
    zeros: int = 0  # of samples that it never draws


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderSettings:
    """How the data is loaded."""

    kind: str  # class name of what was given
    samples: int | None = None  # of the data set; None: not known
    batches: int | None = None  # of an epoch
    batch_size: int | None = None
    last_batch: int | None = None  # samples of the last batch; None: not known
    workers: int = 0
    sampler: str = ""  # its class name
    shuffled: bool | None = None  # None: not known
    size: int | None = None  # samples of the data set, of which a sampler may draw some
    draws: Draws | None = None  # where a sampler weighs
    same_order: bool | None = None  # two epochs come in one order, though not in the data set's
    seconds: float = 0.0  # that a batch was waited for, on average, the first one left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The classes of the samples, where each has one."""

    counts: tuple[tuple[int, int], ...] = ()  # label and number of samples, by label
    complete: bool = False  # of the whole data set, by its list of targets; else of the sample
    names: tuple[str, ...] = ()  # of the classes, by the data set
    uniform: int = 0  # batches of one class
    kinds: float = 0.0  # classes of a batch, on average over that of a mixed one of its size
    batches: int = 0  # batches of at least two samples
    ordered: bool = False  # the labels of the whole data set never fall
    # share of shuffled labels that simple models of small copies tell as well; None: not tried
    chance: float | None = None
    ranges: tuple[Range, ...] = ()  # of each class, where there are several
    # where a sampler weighs: label, its samples in the data set, its share of what is drawn
    drawn: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mispaired:
    """Two lists of files of a data set that name different samples at one place."""

    first: str  # a file of one list
    second: str  # and the one at its place in the other
    count: int  # places where the numbers in the names differ
    places: int
    is_target: bool = (
        True  # the second are masks or labels by name; else nothing says what they are
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTrials:
    """What reading some samples again has shown; None: it was not tried."""

    random: bool | None = None  # the same sample comes out otherwise
    anew: bool = False  # and shows other images, as an episode does, or is of another class
    workers_repeat: bool | None = None  # two workers draw the same random numbers
    epochs_repeat: bool | None = None  # two epochs draw the same random numbers
    apart: str = ""  # "left to right": the image was flipped so, its mask was not
    unmoved: str = "mask"  # or "boxes", "key points": what was not
    rescaled: bool = False  # each reading scales what came out of the last one once more
    alike: float | None = None  # correlation of images and target images, the median
    frozen: str = ""  # a transform that draws, and that never changed what came out
    unsharded: bool | None = None  # two workers of a stream give the same samples
    fit: Fit | None = None  # of masks to the images of their neighbours in the data set
    strangers: Strangers | None = None  # masks to the images of other readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An exception that the loader raised."""

    kind: str
    message: str
    collating: bool = False  # while samples were joined to a batch
    unreadable: tuple[Spotted, ...] = ()  # samples that raise by themselves
    count: int = 0  # of them, of those that were tried
    tried: int = 0
    reason: str = ""  # what is wrong with the sample that raised, where that is known
    repair: str = ""  # what to do about it


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What one loader gives: that of the training, or that of the validation."""

    name: str  # "training" | "validation"
    loading: LoaderSettings
    samples: int = 0  # that were read
    batches: int = 0
    complete: bool = False  # all of them
    parts: tuple[Part, ...] = ()
    images: Images = field(default_factory=Images)
    labels: Labels | None = None
    objects: tuple[Boxes | Masks | Points, ...] = ()
    trials: SampleTrials = field(default_factory=SampleTrials)
    failed: Failed | None = None
    unread: str = ""  # why a batch could not be measured
    # of episodes: paths of support and query, batches that share an image, and all
    overlap: tuple[str, str, int, int] | None = None
    mispaired: Mispaired | None = None  # files of images and of their masks or labels
    clues: Clues = field(default_factory=Clues)

    def of(self, *roles: str) -> tuple[Part, ...]:
        """The parts of these roles, in the order of the batch."""
        return tuple(part for part in self.parts if part.role in roles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """Samples of the validation that the training has too."""

    pairs: tuple[SamePicture, ...] = ()  # at most eight
    count: int = 0  # samples of the validation
    among: int = 0  # of how many that were compared
    # "index" of one data set, "file" by content, "content" of the image as read, "sequence": what
    # stands beside it in the list, "row" of a table, "window" of a series
    by: str = "content"
    share: float = 0.0  # of the validation, estimated from the samples that were read


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Classes of the validation that a simple model of the training tells by other numbers."""

    labels: tuple[tuple[int, int], ...]  # that of the validation, and the training's for the same
    images: int  # of these classes in the validation
    known: float  # share of unseen images of the training that the model tells
    own: float  # share of those images, as they are labelled
    exchanged: float  # and after the exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Everything that a rule of the data may look at."""

    training: Split
    validation: Split | None = None
    expected: Expectation = field(default_factory=Expectation)
    leaks: tuple[Leak, ...] = ()
    moved: tuple[tuple[int, str, str], ...] = ()  # label, its class in training and in validation
    exchange: Exchange | None = None  # of classes without names
    turned: Turned | None = None  # images of the validation
    one_transform: bool = False  # both are parts of one data set, which has one transform

    @property
    def splits(self) -> Iterator[Split]:
        """That of the training, then that of the validation."""
        yield self.training
        if self.validation is not None:
            yield self.validation
