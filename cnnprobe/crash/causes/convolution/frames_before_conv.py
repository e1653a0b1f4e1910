"""Clips of frames for a layer of images."""

from collections.abc import Iterator
from typing import Any

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.calls import Adapt, AdaptOutput
from cnnprobe.crash.facts.expected import Expected, find_expected
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, Candidate, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.gru = nn.GRU(8, 6, batch_first=True)

        def forward(self, clip):
            features = self.backbone(clip)
            return self.gru(features)[0][:, -1]


    model, args = Net(), (torch.randn(2, 4, 3, 16, 16),)
    """,
    old="self.backbone(clip)",
    new="self.backbone(clip.flatten(0, 1)).unflatten(0, (-1, 4))",
    blames="backbone.0",
    repair="flatten(0, 1) to 'backbone'",
)


@cause(
    code="CP020", name="frames-before-conv", family="shape-mismatch", prior=696, examples=EXAMPLE
)
def frames_before_conv(crash: Crash) -> Iterator[Suspect]:
    """A layer of images got clips: one dim too many, that of the frames.

    Why it happens: clips are (N, T, C, H, W), and nn.Conv2d takes (N, C, H, W).
    What to do: make every frame a sample, x.flatten(0, 1), and give the output its frames again,
    x.unflatten(0, (N, T)). Or use nn.Conv3d on (N, C, T, H, W).
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
    """
    found = find_expected(crash)
    if found is None or found.kind != "conv" or found.rank != found.dims + 3:
        return
    candidates = tuple(_fold_frames(crash, found))
    if candidates:
        shape = found.x.shape
        yield Suspect(
            module=found.module,
            message=f"{describe_module(crash, found.module)} expects {found.dims + 2} dims (batch, "
            f"channels and {found.dims} more) but got {found.rank}: {shape}",
            arithmetic=f"{crash.describe_origin(found.x)} gives {shape}",
            candidates=candidates,
        )


def _fold_frames(crash: Crash, found: Expected) -> Iterator[Candidate]:
    """The frames as samples before the part that starts with the layer, and apart after it."""
    at = next((dim for dim in (2, 1) if found.x.shape[dim] == found.expected), None)
    if at is None or 1 in found.x.shape[:2]:
        return
    place, frames = crash.find_container(found.module), found.x.shape[3 - at]
    turned = "" if at == 2 else ".transpose(1, 2)"  # (N, C, T, H, W)
    code, back = f"{{x}}{turned}.flatten(0, 1)", f"{{x}}.unflatten(0, (-1, {frames}))"

    def merge(t: Any) -> Any:
        return (t if at == 2 else t.transpose(1, 2)).flatten(0, 1)

    before = Adapt(
        title=f"pass {code.format(x='x')} to {quote(place)}",
        code=code,
        module=place,
        function=merge,
    )
    after = AdaptOutput(
        title=f"give its output the frames again: {back.format(x='x')}",
        code=back,
        module=place,
        function=lambda t: t.unflatten(0, (-1, frames)),
    )
    yield propose(before, after, weight=STRONG)
    yield propose(before)
