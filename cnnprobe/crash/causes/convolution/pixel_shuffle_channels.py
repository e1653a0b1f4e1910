from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.facts.channels import find_channel_maker

_PROGRAM = """
  scale = 2
- model = nn.Sequential(nn.Conv2d(3, 3 * scale, 3, padding=1), nn.PixelShuffle(scale))
+ model = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
  args = (torch.randn(1, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="1", repair="out_channels=12")


@cause("CP028", "pixel-shuffle-channels", EXAMPLE, family="channel-mismatch", prior=590)
def pixel_shuffle_channels(crash: Crash) -> Suspects:
    """A PixelShuffle got channels that are no multiple of its upscale_factor squared.

    Why it happens: it makes a block of factor x factor pixels out of as many channels. The
    convolution before it gives channels x factor instead of channels x factor ** 2.
    What to do: set its out_channels to channels * upscale_factor ** 2.
    Known exceptions: none.
    Source: Shi et al. 2016, "Real-Time Single Image and Video Super-Resolution", arXiv:1609.05158.
    """
    layer, call = crash.leaf, crash.call
    if not isinstance(layer, nn.PixelShuffle) or call is None or not call.inputs:
        return
    x, scale = call.inputs[0], layer.upscale_factor
    unit, got = scale**2, x.shape[-3] if len(x.shape) > 2 else 0
    if got % unit == 0:
        return
    fqn, _ = find_channel_maker(crash, x) or ("", [])
    candidates = []
    if isinstance(crash.modules.get(fqn), nn.Conv2d):
        # 3 * scale was written for 3 * scale ** 2, or the channels that are to come out.
        first = got * scale if got % scale == 0 else got * unit
        meant = dict.fromkeys([first, got * unit, -(-got // unit) * unit])
        candidates = [propose(configure(crash, fqn, out_channels=n)) for n in meant]
    message = (
        f"{crash.describe_module(call.fqn or '')} expects a multiple of "
        f"{scale} x {scale} = {unit} channels but got {got}"
    )
    arithmetic = f"{got} = {got // unit} x {unit} + {got % unit}"
    yield blame(call.fqn, message, *candidates, arithmetic=arithmetic)
