from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import adapt_tensor
from cnnprobe.crash.facts.expected import find_mismatch

_PROGRAM = """
  model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
  images = torch.randn(5, 28, 28)
- args = (images,)
+ args = (images.unsqueeze(1),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="unsqueeze(1)")


@cause("CP017", "missing-channel-dim", EXAMPLE, family="channel-mismatch", prior=697)
def missing_channel_dim(crash: Crash) -> Suspects:
    """A batch of one-channel images lacks the channel dim, so that torch takes the batch for it.

    Why it happens: grey images and series are stored as (N, H, W) or (N, L). A convolution takes
    that for one sample (C, H, W).
    What to do: add the dim: x.unsqueeze(1).
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
    """
    if (found := find_mismatch(crash)) is None or not found.is_unbatched or found.expected != 1:
        return
    shape = found.x.shape
    if shape[1] == 1 and found.dims > 1:
        return  # the channels are there: a series for a layer of images
    edit = adapt_tensor(crash, found.x, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
    message = (
        f"the channel dim is missing: {crash.describe_module(found.module)} expects 1 "
        f"input channel, and takes {shape} for one sample of {shape[0]} channels"
    )
    yield blame(found.module, message, edit, arithmetic=f"expected (N, 1, ...), got {shape}")
