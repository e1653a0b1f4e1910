"""Images of a single colour."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.image_facts import Blanks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import among, name_samples
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

ALL = 0.5  # share of constant images from which the pictures are lost, and not a few of them blank

RARE = 0.1  # of the images: three quarters of so few are filled by the ground
BESIDE = 8  # times as many blank images as of those that hold little else of their colour


def _blank(share: int) -> Mapping[str, Any]:
    given = images()
    given[:share] = 0.5
    given[:share] += labels()[:share, None, None, None]  # each class in its own colour
    return {"loader": loader(given, labels())}


def sick() -> Mapping[str, Any]:
    """Three files hold nothing but one colour."""
    return _blank(3)


def healthy() -> Mapping[str, Any]:
    """None does."""
    return _blank(0)


@data_rule(
    code="CP804",
    name="constant-images",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("constant-output", "ignored-input"),
)
def constant_images(data: Data) -> Iterator[Finding]:
    """Images of a single colour: blank, black in place of a broken file, or lost on the way.

    Why it matters: there is nothing in them to learn from; where all images are constant, the
    content was lost in a division.
    What to do: look at the named files; where all images are constant, look at the transforms
    (uint8 divided by 255 as whole numbers).
    Files that cannot be opened are named: there __getitem__ catches what the file raises, and
    returns zeros. Let it raise, or leave the sample out in the collate_fn.
    Known exceptions: it is info where the samples have no class of their own, as slices of a scan
    with their masks, where other images are all but filled by the same colour, as crops of slides
    are by their ground, and where the named ones come out otherwise when they are read again.
    Source: uint8 arithmetic of torch and NumPy: 200 // 255 is 0.
    """
    for split in data.splits:
        images = split.images
        if not images.constants:
            continue
        share = images.constants / max(1, split.samples)
        meant = (
            not images.blanks.unopened
            and not images.blanks.deep
            and (_are_grounds(split, data) or 2 * images.blanks.unsteady > images.blanks.tried)
        )
        severity = (
            Severity.WARNING
            if (split.of("class") or images.blanks.deep) and not meant
            else Severity.INFO
        )
        yield Finding(
            severity=Severity.ERROR if share > ALL else severity,
            message=(
                f"{format_counted(images.constants, 'image')} of {among(split)} "
                f"{'has' if images.constants == 1 else 'have'} a single colour: "
                f"{name_samples(images.constant, images.constants)}" + _name_broken(images.blanks)
            ),
            fix="read the 16 bits, np.asarray(Image.open(file)), and divide by 65535"
            if images.blanks.deep
            else "let __getitem__ raise, and remove or replace the files"
            if images.blanks.unopened
            else "look at the transforms: every picture is lost on the way"
            if share > ALL
            else (
                "remove these images, or find out why they are blank: an except that returns zeros?"
            ),
        )


def _are_grounds(split: Split, data: Data) -> bool:
    """Whether the colours of all blank images all but fill others too."""
    grounds: dict[float, int] = {}
    for each in data.splits:
        for value, nearly, mostly in each.images.blanks.grounds:
            # Where most images are so, as digits on black, a blank one is none of them.
            n = mostly if mostly < RARE * each.samples else nearly
            grounds[value] = grounds.get(value, 0) + n
    bounds = split.images.blanks.bounds
    known = sum(
        n for low, high, n in bounds if BESIDE * sum(grounds.get(v, 0) for v in {low, high}) >= n
    )
    return known == split.images.constants


def _name_broken(blanks: Blanks) -> str:
    files = blanks.unopened
    if blanks.deep:
        said = format_counted(blanks.deep, "of these files holds", "of these files hold")
        return f"; {said} 16 bits, which convert('L') and convert('RGB') cut off at 255"
    if not files:
        return ""
    said = format_counted(len(files), "of these files", "of these files")
    return f"; {said} cannot be opened by Pillow, the first is {files[0]!r}"
