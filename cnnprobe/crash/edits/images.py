"""Images with another number of channels: grey into colour, colour into grey, no alpha channel."""

from collections.abc import Iterator

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import change_tensor
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.records.trace import TensorInfo


def convert_images(
    crash: Crash, info: TensorInfo, shape: tuple[int, ...], dim: int, expected: int
) -> Iterator[Edit]:
    """The conversion of the model's input, which has its channels in `dim` of `shape`."""
    got = shape[dim]
    if got == 1:
        sizes = [-1] * len(shape)
        sizes[dim] = expected
        code = "{x}.expand(" + ", ".join(map(str, sizes)) + ")"
        yield change_tensor(crash, info, lambda x: x.expand(sizes), code)
    elif expected == 1:
        code = f"{{x}}.mean({dim}, keepdim=True)"
        yield change_tensor(crash, info, lambda x: x.mean(dim, keepdim=True), code)
    elif got == expected + 1:
        code = f"{{x}}[:, :{expected}]" if dim == 1 else f"{{x}}[:{expected}]"
        yield change_tensor(crash, info, lambda x: x.narrow(dim, 0, expected), code)
