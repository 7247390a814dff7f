"""gilearn: gradient inversion, attack by attack and defense by defense, beside the book that teaches it.

Five names carry the package. A client calls :func:`gilearn.federated.observe`; what comes back, an ``Observation``, is
all that a server sees. An attack is called with it and returns a ``Reconstruction``, which :mod:`gilearn.metrics`
scores.

>>> from gilearn import attacks, data, federated, metrics, models
>>> x, y = data.photos(size=32)
>>> seen = federated.observe(models.lenet(num_classes=10), x[:1], y[:1])
>>> result = attacks.iDLG(seen, seed=0)
>>> metrics.psnr(result.inputs, x[:1]) > 30
True
"""

from gilearn.models import device

__version__ = "0.1.0"
__all__ = ["__version__", "device"]
