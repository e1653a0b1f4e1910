from cnnprobe.crash.cause import USUAL, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import resize_input

_SMALLEST_IMAGE = 16  # pixels: below, a size is that of a patch or a window
_PROGRAM = """
  class Patches(nn.Module):
      def __init__(self, img_size=32):
          super().__init__()
          self.img_size = img_size
          self.proj = nn.Conv2d(3, 8, 8, 8)
      def forward(self, x):
          assert x.shape[-1] == self.img_size, "wrong input size"
          return self.proj(x).flatten(2)
- model, args = Patches(), (torch.randn(1, 3, 40, 40),)
+ model, args = Patches(), (torch.randn(1, 3, 32, 32),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="32")


@cause("CP046", "input-size-refused", EXAMPLE, family="shape-mismatch", prior=1070)
def input_size_refused(crash: Crash) -> Suspects:
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
        yield blame(
            crash.owner,
            f"{crash.describe_module(crash.owner)} itself refuses {shape}; its {name} is {value}",
            resize_input(sizes, exact=True),
            arithmetic=f"{name} {sizes[0]} x {sizes[1]}, got {shape[2]} x {shape[3]}",
            weight=USUAL,
        )
