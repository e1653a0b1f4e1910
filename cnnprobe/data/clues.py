"""What the samples of a split show beside something else: their files, one another, a vocabulary,
the data set that a collate joined them from. Frozen plain data.
"""

from dataclasses import dataclass, field

from cnnprobe.data.spots import Spotted


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of a text, beside the vocabulary that was found."""

    path: str
    unknown: int  # the number of the token for what the vocabulary has not
    name: str = ""  # of that token
    count: int = 0  # tokens, without the padding and the other tokens that stand for no word
    unknowns: int = 0  # of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Rows of tokens, their padding, and what stands beside them."""

    path: str
    pad: int | None = None  # the token that fills the ends of rows; None: not known
    padded: float = 0.0  # share of the tokens
    targets: str = ""  # path of other tokens of equal shape
    fill: int | None = None  # of them at all places of the padding
    equal: bool = False  # targets and tokens, in all batches
    mask: str = ""  # path of the mask
    unmasked: bool = False  # it is 1 at all of the padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An edge that nearly all images of one class have at one place, and hardly one of the
    others.
    """

    label: int
    images: int  # of the class
    share: float  # of them that have it
    others: int  # images of other classes
    met: float  # share of them that have it
    box: tuple[float, float, float, float]  # left, top, right, bottom, in parts of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Images beside the pictures in their files, or in the arrays of the data set."""

    turned: int = 0  # that carry an orientation, as phones write it, and whose images tell
    unturned: int = 0  # of them, those whose image is as it is stored
    palettes: int = 0  # with a palette in no order of brightness
    indices: int = 0  # of them, those whose image is made of the numbers of the colours
    clipped: int = 0  # images that were compared because much of them has the greatest value
    share: float = 0.0  # of their values at an end of the range, the median
    before: float = 0.0  # and of those of the pictures
    example: str = ""  # a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The samples of a batch beside those of the data set, where the collate is the user's own."""

    samples: int
    wrong: int = 0  # that stand beside the label of another
    mixed: bool = False  # each is a mix of two, and so is its label


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """How the images that repeat another one came about."""

    worded: int = 0  # that stand beside another text, as several captions of one image do
    # places in the list of duplicates of those whose files show other pictures, or cannot be read
    replaced: tuple[int, ...] = ()
    unreadable: str = ""  # the first file that cannot be read
    # batches of other samples whose images are all equal to the bit, of how many; 0 where all
    # batches are equal to one another
    equal_batches: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transposed:
    """Lists of numbers, one of each sample, that came as a tensor for each place of the lists."""

    path: str
    places: int  # numbers of a sample, and tensors of the batch
    samples: int  # of the first batch: the length of each tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshaped:
    """A part whose dims stand in another order than in the array that it was made of, while its
    values do not.
    """

    path: str
    given: tuple[int, ...]  # the shape of a sample
    held: tuple[int, ...]  # that of the array
    of: str  # "the data set's images", "what the collate gets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """Masks of class numbers that were resized with smooth interpolation."""

    path: str
    mode: str  # "bilinear"
    source: str  # the line
    highest: float  # class number


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """Samples that are computed in the bytes of a data set, and wrap around."""

    name: str  # of the array
    share: float  # of the values, that come out otherwise in wider numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """Images of the validation that a simple model of the training tells when they are turned."""

    turn: str  # "flipped left to right"
    images: int  # of the validation
    known: float  # share of unseen images of the training that the model tells
    own: float  # of those of the validation, as they are
    best: float  # and when they are turned


@dataclass(frozen=True, slots=True, kw_only=True)
class Strangers:
    """How much of the variance of the pixels lies between the classes of masks, where images and
    masks come out otherwise from reading to reading; the means of samples.
    """

    samples: int
    own: float  # of the mask that was read with the image
    other: float  # of those of other readings of the sample
    strange: float  # of those of other samples
    together: float  # by how many standard errors own is above other
    belong: float  # and other above strange


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The share of unseen images whose label a simple model tells, though some labels are wrong."""

    images: int
    surest: float  # of the tenth, or the quarter, where it is surest
    half: float  # of the half
    whole: float
    examples: tuple[tuple[Spotted, int], ...] = ()  # and the class that the model takes each for


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of images that are called the same or different."""

    pairs: int
    same: float  # the value that stands for the same class
    different: int
    wrong: int  # of the different: of one class by the pairs that are the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Two sample rates of sound files whose spectrograms are of their own rate each."""

    rates: tuple[int, int]  # in Hz
    files: tuple[int, int]  # of those whose header was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Clues:
    """All of these, of one split."""

    tokens: tuple[Tokens, ...] = ()
    marks: tuple[Mark, ...] = ()
    beside: Beside = field(default_factory=Beside)
    joined: Joined | None = None
    transposed: Transposed | None = None
    reshaped: Reshaped | None = None
    wrapped: Wrapped | None = None
    smoothed: Smoothed | None = None
    reseeded: str = ""  # the generator that reading a sample seeds with a constant
    spoiling: str = ""  # by which word the data set's class speaks of noise that it adds
    texts: Texts | None = None
    noise: Noise | None = None
    pairs: Pairs | None = None
    rates: Rates | None = None
    features: tuple[str, tuple[int, ...]] = ("", ())  # path, and columns that are the target
