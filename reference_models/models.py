"""SimpleCNN, spelled out layer by layer, and CNNModel, its refactoring into blocks: as first
written and repaired.
"""

from typing import Any

import torch
from torch import Tensor, nn


class SimpleCNN(nn.Module):
    """Class scores, shape (N, `num_of_output_classes`), of 32x32 colour images, shape (N, 3, 32,
    32).

    Three times convolution (3x3, padding 1), ReLU and 2x2 max pooling, 3 -> 32 -> 64 -> 128
    channels and 32 -> 16 -> 8 -> 4 pixels, then two fully connected layers. 1,147,466 parameters
    for 10 classes.

    Source: the plain network that CIFAR-10 tutorials train (PyTorch, "Training a classifier", its
    `Net`), with VGG's 3x3 convolutions of padding 1 and channels that double (Simonyan and
    Zisserman 2015, section 2.1, arXiv:1409.1556) and dropout 0.5 before the last layer (Srivastava
    et al. 2014, section A.4, JMLR 15:1929-1958).

    >>> sum(p.numel() for p in SimpleCNN(10).parameters())
    1147466
    """

    def __init__(self, num_of_output_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(kernel_size=2, stride=2)

        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(kernel_size=2, stride=2)

        self.conv3 = nn.Conv2d(64, 128, kernel_size=3, padding=1)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(kernel_size=2, stride=2)

        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(128 * 4 * 4, 512)
        self.relu4 = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(512, num_of_output_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (logits), shape (N, `num_of_output_classes`), of images `x`, shape (N, 3,
        32, 32).
        """
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        x = self.flatten(x)
        x = self.relu4(self.fc1(x))
        x = self.dropout(x)
        logits: Tensor = self.fc2(x)
        return logits


class ConvLayer(nn.Module):
    """`channel_out` feature maps of half the height and width: one stage of `SimpleCNN` as a block
    of its own.

    Source: "VGG block", stages of convolution, ReLU and 2x2 max pooling (Simonyan and Zisserman
    2015, section 2.1, arXiv:1409.1556), here with one convolution each.

    >>> ConvLayer(3, 32)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 32, 16, 16])
    """

    def __init__(self, channel_in: int, channel_out: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channel_in, channel_out, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (N, `channel_out`, H // 2, W // 2) of `x`, shape (N, `channel_in`, H, W)."""
        out: Tensor = self.block(x)
        return out


class CNNModel(nn.Module):
    """Class scores, shape (N, `num_of_output_classes`), of images (N, 3, 32, 32): `SimpleCNN`
    written as blocks.

    The same 1,147,466 parameters for 10 classes, and with the same weights the same numbers.

    Source: `SimpleCNN`, refactored into the `features` and `classifier` of torchvision's `vgg.py`
    and `alexnet.py`.

    >>> sum(p.numel() for p in CNNModel().parameters())
    1147466
    """

    def __init__(self, *args: Any, num_of_output_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.features = nn.Sequential(ConvLayer(3, 32), ConvLayer(32, 64), ConvLayer(64, 128))
        self.classifier = nn.Sequential(
            nn.Linear(128 * 4 * 4, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, num_of_output_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class scores (logits), shape (N, `num_of_output_classes`), of images `x`, shape (N, 3,
        32, 32).
        """
        x = self.features(x)
        x = torch.flatten(x, 1)
        logits: Tensor = self.classifier(x)
        return logits


class CNNModelAsWritten(nn.Module):
    """`CNNModel` as it was first written: its forward forgets the flatten, so that `classifier`
    raises RuntimeError.

    It is kept broken on purpose. The parameters are right, the state_dict fits `CNNModel`, printing
    it shows nothing wrong; only running it says "mat1 and mat2 shapes cannot be multiplied", and
    not where.

    Source: `SimpleCNN`, refactored as in `CNNModel`; `nn.Flatten` was left behind because it has no
    parameters.

    >>> CNNModelAsWritten()(torch.zeros(2, 3, 32, 32))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    RuntimeError: ...mat1 and mat2 shapes cannot be multiplied (1024x4 and 2048x512)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.features = nn.Sequential(ConvLayer(3, 32), ConvLayer(32, 64), ConvLayer(64, 128))
        self.classifier = nn.Sequential(
            nn.Linear(128 * 4 * 4, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raises RuntimeError for images of shape (N, 3, 32, 32): nothing flattens the features."""
        x = self.features(x)
        logits: Tensor = self.classifier(x)
        return logits
