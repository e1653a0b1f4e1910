"""What is known of boxes, masks and key points beside their images, as frozen plain data."""

from dataclasses import dataclass, field

from cnnprobe.data.spots import Spotted


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxParts:
    """Boxes in parts of their image: how many lie inside of it when they are read in each form."""

    corners: int = 0  # [x1, y1, x2, y2]
    centers: int = 0  # [center x, center y, width, height]
    sized: int = 0  # [x1, y1, width, height]
    centered: bool = False  # they stand where centers are expected


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
    parts: BoxParts = field(default_factory=BoxParts)  # of these
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
class Pile:
    """The least or the greatest coordinate of key points, which many of them share."""

    value: float
    points: int  # that have it in x or in y
    among: int  # of all that were looked at
    near: int  # coordinates in the next tenth of their range
    at_border: bool = False  # of the image


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
    pile: Pile | None = None


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
