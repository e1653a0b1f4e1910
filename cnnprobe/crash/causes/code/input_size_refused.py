"""The model's own code refuses the size of its input."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.suspect import STRONG, Suspect, propose

_SMALLEST_IMAGE = 16  # pixels: below, a size is that of a patch or a window
EXAMPLE = Example(
    """
    class Patches(nn.Module):
        def __init__(self, img_size=32):
            super().__init__()
            self.img_size = img_size
            self.proj = nn.Conv2d(3, 8, 8, 8)

        def forward(self, x):
            assert x.shape[-1] == self.img_size, "wrong input size"
            return self.proj(x).flatten(2)


    model, args = Patches(), (torch.randn(1, 3, 40, 40),)
    """,
    old="40, 40",
    new="32, 32",
    blames="",
    repair="32",
)


@cause(
    code="CP046", name="input-size-refused", family="shape-mismatch", prior=1070, examples=EXAMPLE
)
def input_size_refused(crash: Crash) -> Iterator[Suspect]:
    """The model's own code refuses the size of its input.

    Why it happens: a vision transformer has one position for each patch, and so one size of image.
    What to do: resize the images, or construct the model for their size.
    Known exceptions: some models can interpolate their positions: dynamic_img_size in timm.
    Source: PatchEmbed of timm compares the input with img_size.
    """
    owner = crash.modules.get(crash.owner)
    is_own_check = isinstance(crash.error, AssertionError | ValueError) and crash.leaf is None
    if owner is None or not is_own_check or not crash.root_inputs:
        return
    shape = crash.root_inputs[0].shape
    for name, value in owner.__dict__.items():
        sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * 2
        is_size = len(sizes) == 2 and all(type(n) is int and n >= _SMALLEST_IMAGE for n in sizes)
        if "size" not in name or not is_size or len(shape) != 4 or sizes == shape[2:]:
            continue
        yield Suspect(
            module=crash.owner,
            message=f"{describe_module(crash, crash.owner)} itself refuses {shape}; "
            f"its {name} is {value}",
            arithmetic=f"{name} {sizes[0]} x {sizes[1]}, got {shape[2]} x {shape[3]}",
            candidates=(propose(resize_input(sizes, exact=True), weight=STRONG),),
        )
