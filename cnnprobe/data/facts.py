"""What is known of the data that a loader gives, as frozen plain data: the one thing that the rules
of the data read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnprobe.data.clues import Clues, Repeats, Strangers, Turned
from cnnprobe.data.expectation import Expectation

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spotted:
    """A sample, and where it stands."""

    batch: int  # of those that were read, from 0
    position: int  # in its batch
    index: int | None = None  # in the data set; None: not known
    name: str = ""  # of its file, where the data set tells it
    label: int | None = None  # where it has one class

    @property
    def place(self) -> str:
        """The place in words: "sample 17 ('cat/003.png')"."""
        where = f"sample {self.position} of batch {self.batch}"
        number = where if self.index is None else f"sample {self.index}"
        return f"{number} ({self.name!r})" if self.name else number


@dataclass(frozen=True, slots=True, kw_only=True)
class SamePicture:
    """Two samples that show the same picture."""

    first: Spotted
    second: Spotted
    exact: bool = True  # equal numbers; False: equal to the eye, re-encoded say


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
class Colours:
    """How the channels of three-channel images stand to one another, in the numbers before a known
    normalisation.
    """

    images: int = 0  # that were looked at
    mean: tuple[float, ...] = ()  # of the images' means, by channel
    difference: float = 0.0  # of the first channel and the last, on average
    error: float = 0.0  # standard error of that
    # Pearson's r of that difference with the one in the files, where files are known
    by_file: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """How the values lie in the images that were looked at closely."""

    images: int = 0
    rearranged: str = ""  # how the values were read in another order than they were written
    smoother: float = 1.0  # by what factor the images are smoother in the order before, median
    wrapped: tuple[Spotted, ...] = ()  # those that jump from white to black and go on
    wraps: int = 0
    colours: Colours = field(default_factory=Colours)
    clips: int = 0  # of 11 frames or more that were looked at
    # by what factor the frames of a clip change less when they are put from the order of strings
    # (0, 1, 10, 11, 2) into that of numbers: the least, and the median
    jumps: tuple[float, float] = (0.0, 0.0)
    # powers of two below the greatest absolute value of an image, with the number of images
    peaks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blanks:
    """What is known of the images of one colour."""

    bounds: tuple[tuple[float, float, int], ...] = ()  # least and greatest value, and how many
    # values that all but fill so many other images, and that fill three quarters of so many
    grounds: tuple[tuple[float, int, int], ...] = ()
    unopened: tuple[str, ...] = ()  # files of constant images that Pillow cannot read
    deep: int = 0  # files of constant images that hold 16 bits
    tried: int = 0  # that were read again
    unsteady: int = 0  # of these, those that have another colour too: random crops of a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What was met among the images; of each kind at most eight are named."""

    constant: tuple[Spotted, ...] = ()  # of one colour
    constants: int = 0
    nonfinite: tuple[Spotted, ...] = ()  # with NaN or Inf
    nonfinites: int = 0
    duplicates: tuple[SamePicture, ...] = ()  # of other samples that were read
    repeated: int = 0  # samples that repeat an earlier one, equal to the bit
    similar: int = 0  # and equal to the eye
    contradicting: int = 0  # of both, those with another label
    repeats: Repeats = field(default_factory=Repeats)
    normalisations: tuple[
        tuple[tuple[float, ...], tuple[float, ...]], ...
    ] = ()  # mean, std, in order
    scaled: bool | None = None  # a transform brings uint8 to [0, 1]; None: no transform is known
    blanks: Blanks = field(default_factory=Blanks)
    transforms: tuple[str, ...] = ()  # class names of those that the data set holds, by name
    pixels: Pixels = field(default_factory=Pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The values of the images of one class."""

    label: int
    images: int  # that were looked at
    low: float  # median of the least values
    high: float  # median of the greatest ones


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
class Boxes:
    """Boxes of objects, as [x1, y1, x2, y2] in pixels where not said otherwise."""

    path: str
    count: int = 0
    form: str = "xyxy"  # "xywh" of COCO's annotations, "relative" where all are in [0, 1]
    outside: int = 0  # that lie partly outside of their image
    empty: int = 0  # without area
    turned: int = 0  # outside of their image, and inside of it as [y1, x1, y2, x2]
    swapped: int = 0  # x2 < x1 or y2 < y1, which are boxes inside of the image as [x, y, w, h]
    relative: int = 0  # with all numbers in [0, 1]
    # that have x2 < x1 alone, y2 < y1 alone, and both
    crossed: tuple[int, int, int] = (0, 0, 0)
    sized: int = 0  # that lie in their image as [x, y, w, h]
    spotted: tuple[Spotted, ...] = ()  # samples of those that are outside or empty
    # of all boxes in pixels, in parts of their image: the least x, y and the greatest x, y
    reach: tuple[float, ...] = ()
    images: int = 0  # that have a box
    resized: float | None = None  # side of the images over that of their files, where it is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How much better the edges of masks lie on those of the images at other places of the list, or
    those of masks that are turned.
    """

    pairs: int  # masks that were looked at
    shift: int  # of the place whose images fit best; 0: their own
    turn: str = ""  # "flipped top to bottom": the masks fit their own images so
    pictures: bool = False  # both are images: own and best are correlations, the median
    own: float  # edges of the own image under the mask's, over those all over the image; mean
    best: float  # the same of the images at that place
    z: float  # by how many standard errors best is above own


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Key points in pixels, (x, y)."""

    path: str
    count: int = 0
    outside: int = 0  # of their image
    turned: int = 0  # outside of their image, and inside of it as (y, x)
    samples: int = 0  # that have all points
    # of the places of two points in the list: the share of samples where the first is further left,
    # and that where it is further up
    orders: tuple[tuple[int, int, float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Masks of segmentation beside their images."""

    path: str
    unequal: int = 0  # of another size than their image
    ratio: float | None = None  # of the sides of image and mask, where it is the same for all
    spotted: tuple[Spotted, ...] = ()
    classes: int = 0  # masks that have areas of two classes or more
    between: int = 0  # of them, those with values that stand but where two such areas meet
    between_values: tuple[float, ...] = ()  # of these the first
    # Of the masks of two values: the greater value lies inside of the other, all around it, or
    # across the border of the mask.
    inside: int = 0
    around: int = 0
    across: int = 0
    turned: Fit | None = None  # to their images, when they are turned
    # by how many standard errors they fit their own images better than other ones
    own: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mispaired:
    """Two lists of files of a data set that name different samples at one place."""

    first: str  # a file of one list
    second: str  # and the one at its place in the other
    count: int  # places where the numbers in the names differ
    places: int


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

    @property
    def splits(self) -> Iterator[Split]:
        """That of the training, then that of the validation."""
        yield self.training
        if self.validation is not None:
            yield self.validation
