"""gilearn: gradient inversion, attack by attack and defense by defense, beside the book that teaches it.

Five names carry the package. A client calls :func:`gilearn.federated.observe`; what comes back, an ``Observation``, is
all that a server sees. An attack is called with it and returns a ``Reconstruction``, which :mod:`gilearn.metrics`
scores.

>>> from gilearn import attacks, data, federated, metrics, models
>>> x, y = data.photos(size=32)
>>> model = models.lenet(strides=(1, 1, 1), spread=None)
>>> seen = federated.observe(model, x[:1], y[:1])
>>> result = attacks.iDLG(seen, seed=0)
>>> metrics.psnr(result.inputs, x[:1]) > 30
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gilearn.models import device

__version__ = "0.1.0"
__all__ = ["__version__", "device"]


def __getattr__(name: str) -> Any:
    # PyTorch takes a second to import: not before something of it is needed.
    if name == "device":
        from gilearn.models import device

        return device
    raise AttributeError(f"module 'gilearn' has no attribute {name!r}")
