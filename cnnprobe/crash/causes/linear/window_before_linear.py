from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.facts.features import find_features, list_other_windows
from cnnprobe.crash.facts.words import quote, write_product

_PROGRAM = """
  model = nn.Sequential(
      nn.Conv2d(1, 8, 3, padding=1),
      nn.ReLU(),
      nn.MaxPool2d(2),
-     nn.Conv2d(8, 16, 3),
+     nn.Conv2d(8, 16, 3, padding=1),
      nn.ReLU(),
      nn.MaxPool2d(2),
      nn.Flatten(),
      nn.Linear(16 * 8 * 8, 10),
  )
  args = (torch.randn(4, 1, 32, 32),)
"""
EXAMPLE = Example(_PROGRAM, blames="3", repair="set padding=1 in '3'")


@cause("CP003", "window-before-linear", EXAMPLE, family="linear-in-features", prior=797)
def window_before_linear(crash: Crash) -> Suspects:
    """A convolution or pooling makes the map another size than the Linear after it expects.

    Why it happens: each kernel, stride and padding on the way changes the height and width, and
    in_features was counted for other settings than one of the layers has.
    What to do: give that layer the settings of its siblings, or count in_features anew.
    Known exceptions: where no other layer has such settings, in_features is as likely wrong.
    Source: the formulas in the docs of torch.nn.Conv2d and torch.nn.MaxPool2d.
    """
    if (found := find_features(crash)) is None:
        return
    for window in list_other_windows(crash):
        texts = ", ".join(f"{name}={value!r}" for name, value in window.settings.items())
        is_like = ", as the other layers have it," if window.is_like_others else ""
        weight = STRONG if window.is_like_others else POSSIBLE
        yield blame(
            window.fqn,
            f"{crash.describe_module(window.fqn)} makes the map another size than "
            f"{crash.describe_module(found.module)} expects: with {texts}{is_like} it fits",
            propose(configure(crash, window.fqn, **window.settings), weight=weight),
            arithmetic=f"{quote(found.module)} expects {found.wanted} features; with {texts} they "
            f"are {write_product((found.map.shape[1], *window.sizes))}; the map is "
            f"{found.map.shape}",
            weight=weight,
        )
