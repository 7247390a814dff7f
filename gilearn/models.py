"""The survey's victims: the networks whose gradients are inverted.

Every builder is deterministic: the same ``seed`` gives the same weights, whatever was drawn before, and the global
random state is left as it was. The networks are plain ``torch.nn`` modules, so a reader's own module can stand in for
any of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}
"""The activations by the name that every builder takes; ``leaky_relu`` has R-GAP's slope of 0.2."""


def device() -> torch.device:
    """Return CUDA where there is one, else the CPU. A model moved there takes everything along.

    Apple's MPS is not among them: it has no float64, which line searches, label rules and recursions compute in, and
    nothing here has been run on it.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mlp(
    in_features: int,
    widths: Sequence[int] = (64,),
    num_classes: int = 10,
    *,
    activation: str = "sigmoid",
    bias: bool = True,
    seed: int = 0,
) -> nn.Sequential:
    """Return a multilayer perceptron over the flattened input: the victim of PPDL-AHE (Phong et al., 2018).

    Args:
        in_features: Values of one example: channels x height x width.
        widths: Neurons of each hidden layer; empty for a single layer.
        num_classes: Neurons of the last layer.
        activation: A key of :data:`ACTIVATIONS`, after each hidden layer.
        bias: Whether the layers have one. Without it the closed form loses the scale of the input.
        seed: Seeds PyTorch's default initialization.

    Raises:
        ValueError: A size is not positive, or the activation is unknown.

    Chapter: perceptron.
    """
    sizes = [in_features, *widths, num_classes]
    _check_positive(in_features=in_features, widths=widths, num_classes=num_classes)
    act = _activation(activation)
    with _seeded(seed):
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias=bias), act()]
        return nn.Sequential(*layers[:-1])


def lenet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    size: int = 32,
    strides: Sequence[int] = (2, 2, 1),
    width: int = 12,
    activation: str = "sigmoid",
    spread: float | None = 0.5,
    seed: int = 0,
) -> nn.Sequential:
    """Return DLG's LeNet: three 5x5 convolutions with sigmoids, one fully connected layer (Zhu et al., 2019).

    Args:
        in_channels: Channels of the input.
        num_classes: Neurons of the last layer.
        size: Height and width of the input in pixels.
        strides: Stride of each convolution; one convolution per entry. DLG's code has (2, 2, 1); all ones keep every
            pixel.
        width: Channels of every convolution.
        activation: A key of :data:`ACTIVATIONS`. The attack needs a second derivative, hence not ReLU.
        spread: Every weight and bias is drawn from U(-spread, spread), as in DLG's code; ``None`` keeps PyTorch's
            default.
        seed: Seeds the initialization.

    Raises:
        ValueError: A size is not positive, or the activation is unknown.

    Chapter: deep-leakage. Source: zhu2019.
    """
    _check_positive(in_channels=in_channels, num_classes=num_classes, size=size, strides=strides, width=width)
    act = _activation(activation)
    with _seeded(seed):
        layers: list[nn.Module] = []
        for stride in strides:
            layers += [nn.Conv2d(in_channels, width, 5, stride=stride, padding=2), act()]
            in_channels, size = width, -(-size // stride)
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size * size, num_classes))
        if spread is not None:
            for parameter in model.parameters():
                nn.init.uniform_(parameter, -spread, spread)
        return model


def convnet(
    in_channels: int = 3,
    num_classes: int = 10,
    *,
    size: int = 32,
    widths: Sequence[int] = (32, 64, 64),
    strides: Sequence[int] = (1, 2, 2),
    batch_norm: bool = False,
    activation: str = "relu",
    seed: int = 0,
) -> nn.Sequential:
    """Return a network of 3x3 convolutions, with or without batch normalization, and one fully connected layer.

    The small stand-in for the ConvNets of InvGrad (Geiping et al., 2020).

    Args:
        in_channels: Channels of the input.
        num_classes: Neurons of the last layer.
        size: Height and width of the input in pixels.
        widths: Channels of each convolution.
        strides: Stride of each convolution; as many as widths.
        batch_norm: A batch normalization between every convolution and its activation.
        activation: A key of :data:`ACTIVATIONS`.
        seed: Seeds PyTorch's default initialization.

    Raises:
        ValueError: A size is not positive, the activation is unknown, or widths and strides differ in number.

    Chapter: networks. Source: geiping2020.
    """
    _check_positive(in_channels=in_channels, num_classes=num_classes, size=size, widths=widths, strides=strides)
    if len(widths) != len(strides):
        raise ValueError(f"strides: got {len(strides)} of them, wanted one for each of the {len(widths)} widths")
    act = _activation(activation)
    with _seeded(seed):
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers.append(nn.Conv2d(in_channels, width, 3, stride=stride, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(act())
            in_channels, size = width, -(-size // stride)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(in_channels * size * size, num_classes))


def cnn6(
    in_channels: int = 3,
    num_classes: int = 1,
    *,
    size: int = 32,
    widths: Sequence[int] = (12, 36, 36, 36, 64, 128),
    activation: str = "leaky_relu",
    bias: bool = False,
    seed: int = 0,
) -> nn.Sequential:
    """Return R-GAP's CNN6: six convolutions and one fully connected layer, by default without bias (Zhu & Blaschko,
    2021).

    With the second width at 20 instead of 36 it is the paper's rank-deficient CNN6-d.

    Args:
        in_channels: Channels of the input.
        num_classes: Neurons of the last layer; R-GAP has a single logit.
        size: Height and width of the input in pixels.
        widths: Channels of the six convolutions.
        activation: A key of :data:`ACTIVATIONS`; the recursion must be able to invert it.
        bias: Whether the layers have one.
        seed: Seeds PyTorch's default initialization.

    Raises:
        ValueError: A size is not positive, the activation is unknown, or there are not six widths.

    Chapter: r-gap. Source: zhu2021.
    """
    _check_positive(in_channels=in_channels, num_classes=num_classes, size=size, widths=widths)
    if len(widths) != 6:
        raise ValueError(f"widths: got {len(widths)}, wanted six")
    act = _activation(activation)
    with _seeded(seed):
        layers: list[nn.Module] = []
        # kernel, stride, padding of the six layers
        geometry = ((4, 2, 2), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1))
        for width, (kernel, stride, padding) in zip(widths, geometry, strict=True):
            layers += [nn.Conv2d(in_channels, width, kernel, stride=stride, padding=padding, bias=bias), act()]
            in_channels, size = width, (size + 2 * padding - kernel) // stride + 1
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(in_channels * size * size, num_classes, bias=bias))


class LoopNet(nn.Module):
    """A vertical network: one for each part of :func:`divided`, ``head`` on top. Chapter: vertical. Source: jin2021."""

    def __init__(self, parties: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.parties, self.head = nn.ModuleList(parties), head

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, num_classes) of whole examples."""
        pairs = zip(self.parties, divided(x, len(self.parties)), strict=True)
        logits: Tensor = self.head(torch.cat([party(part) for party, part in pairs], dim=1))
        return logits


def divided(x: Tensor, parties: int) -> tuple[Tensor, ...]:
    """Return every party's columns of rows, or tiles of pictures row by row: quadrants for four. Chapter: vertical."""
    _check_positive(parties=parties)
    down = max(d for d in range(1, math.isqrt(parties) + 1) if parties % d == 0) if x.ndim > 2 else 1
    if parties // down > x.shape[-1] or (x.ndim > 2 and down > x.shape[-2]):
        raise ValueError(f"parties: got {parties} for examples of shape {tuple(x.shape[1:])}, wanted fewer")
    lines = x.tensor_split(down, dim=-2) if x.ndim > 2 else (x,)
    return tuple(part for line in lines for part in line.tensor_split(parties // down, dim=-1))


def loop_net(
    shape: Sequence[int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    parties: int = 4,
    widths: Sequence[int] = (64, 128),
    hidden: Sequence[int] = (256, 64, 10),
    activation: str = "relu",
    seed: int = 0,
) -> LoopNet:
    """Return CAFE's Loop-Net: parties convolve their parts, with fully connected layers on top (Jin et al., 2021).

    Args:
        shape: Of one example: (channels, height, width), or (columns,) of a table, which is not convolved.
        num_classes: Neurons of the server's only layer.
        parties: How many, from 1.
        widths: Channels of each party's 5x5 convolutions; an activation and a max-pooling by 2 follow each.
        hidden: Neurons of each party's fully connected layers, an activation after each; CAFE inverts the first.
        activation: A key of :data:`ACTIVATIONS`.
        seed: Seeds PyTorch's default initialization.

    Raises:
        ValueError: A size is not positive, the activation is unknown, or a party is left without columns or pixels.

    Chapter: vertical. Source: jin2021; the defaults are its code's.
    """
    _check_positive(shape=shape, num_classes=num_classes, parties=parties, widths=widths, hidden=hidden)
    if not hidden:
        raise ValueError("hidden: got none, wanted at least one fully connected layer")
    act, networks = _activation(activation), []
    with _seeded(seed):
        for part in divided(torch.zeros(1, *shape), parties):
            layers: list[nn.Module] = []
            for channels, width in itertools.pairwise((shape[0], *widths)) if len(shape) > 1 else ():
                layers += [nn.Conv2d(channels, width, 5, padding=2), act(), nn.MaxPool2d(2, ceil_mode=True)]
            layers.append(nn.Flatten())
            for features, neurons in itertools.pairwise((nn.Sequential(*layers)(part).shape[1], *hidden)):
                layers += [nn.Linear(features, neurons), act()]
            networks.append(nn.Sequential(*layers))
        return LoopNet(networks, nn.Linear(parties * hidden[-1], num_classes))


def resnet18(num_classes: int = 10, *, size: int = 32, activation: str = "relu", seed: int = 0) -> nn.Module:
    """Return torchvision's ResNet-18, untrained; for small images with a 3x3 first layer and without its pooling.

    Args:
        num_classes: Neurons of the last layer.
        size: Height and width of the input in pixels; from 112 on the network is torchvision's, unchanged.
        activation: A key of :data:`ACTIVATIONS`, in place of every ReLU.
        seed: Seeds torchvision's initialization.

    Raises:
        ValueError: A size is not positive, or the activation is unknown.

    Chapter: networks. Source: he2016.
    """
    from gilearn._torchvision import torchvision

    _check_positive(num_classes=num_classes, size=size)
    act = _activation(activation)
    with _seeded(seed):
        model: nn.Module = torchvision.models.resnet18(weights=None, num_classes=num_classes)
        if size < 112:
            stem = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
            model.conv1, model.maxpool = stem, nn.Identity()
    if activation != "relu":
        for module in list(model.modules()):
            if isinstance(getattr(module, "relu", None), nn.ReLU):
                module.relu = act()
    return model


TRAINED: Mapping[str, tuple[Callable[[], nn.Module], str, int, float]] = MappingProxyType(
    {
        "mlp-digits": (lambda: mlp(64, (64,), activation="relu"), "digits", 30, 1e-3),
        "lenet-digits": (lambda: lenet(1, 10, size=8, strides=(1, 1, 1)), "digits", 30, 1e-2),
        "lenet-faces": (lambda: lenet(1, 2, size=25), "faces", 60, 1e-2),
        "convnet-photos": (lambda: convnet(), "photos", 12, 1e-3),
        "convnet-bn-photos": (lambda: convnet(batch_norm=True), "photos", 12, 1e-3),
    }
)
"""Trained victims by name: untrained network, pictures, epochs, learning rate (``tools/train_victims.py``)."""


def trained(name: str) -> nn.Module:
    """Return a network with the weights that the book trained, in train mode.

    Args:
        name: A key of :data:`TRAINED`. The builder is the one named there, with its default seed.

    Raises:
        ValueError: The name is unknown.
        FileNotFoundError: The package is installed without the repository, whose ``data/weights`` holds the weights.

    Chapter: networks. Source of the weights: ``data/weights/index.json``, with accuracy and checksum.
    """
    if name not in TRAINED:
        raise ValueError(f"name: got {name!r}, wanted one of {', '.join(TRAINED)}")
    path = Path(__file__).resolve().parents[1] / "data" / "weights" / f"{name}.pt"
    if not path.is_file():
        raise FileNotFoundError(f"name: no weights for {name!r}; they are in data/weights of the repository")
    model = TRAINED[name][0]()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


class Normalized(nn.Module):
    """A model that takes images in [0, 1] and normalizes them itself: ``model((x - mean) / std)``.

    Args:
        model: The network that wants normalized input.
        mean: One value per channel.
        std: One positive value per channel.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or a ``std`` is not positive.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"std: got {list(std)} for mean {list(mean)}, wanted as many values, all positive")
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's output for images in [0, 1], shape (batch, channels, height, width)."""
        output: Tensor = self.model((x - self.mean) / self.std)
        return output


def unwrapped(model: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    """Return the network that takes normalized input, with mean and standard deviation: 0 and 1 if it is the model."""
    if isinstance(model, Normalized):
        return model.model, model.mean, model.std
    like = next(model.parameters())
    return model, like.new_zeros(()), like.new_ones(())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed what ``torch.nn`` initializes from: the CPU's global generator, which is put back as it was.

    ``torch.manual_seed`` would seed the generators of all other devices too, and nothing would put those back.
    """
    generator = torch.default_generator
    before = generator.get_state()
    try:
        generator.manual_seed(seed)
        with torch.device("cpu"):  # whatever the default device is: the same seed means the same weights
            yield
    finally:
        generator.set_state(before)


def _activation(name: str) -> Callable[[], nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: got {name!r}, wanted one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _check_positive(**sizes: int | Sequence[int]) -> None:
    for name, value in sizes.items():
        if any(number < 1 for number in (value if isinstance(value, Sequence) else (value,))):
            raise ValueError(f"{name}: got {value}, wanted positive sizes")
