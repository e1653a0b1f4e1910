"""What is known of the images of a split, as frozen plain data."""

from dataclasses import dataclass, field

from cnnprobe.data.clues import Repeats
from cnnprobe.data.spots import SamePicture, Spotted


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
    # by what factor the frames of a clip change more at the jumps of the order of strings (1, 10,
    # 11, 2) than between the numbers that it takes apart: the least, and the median
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
