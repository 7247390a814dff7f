"""Singular values of the gradient's Jacobian for DLG's LeNet on 32x32 colour photographs, batch 1 and 2.

    python -m tools.record_gradient_spectra

Half a minute for the strided network; the last case, without strides, needs 8 GB and three minutes.
"""

from __future__ import annotations

from gilearn import data, models, ranks
from tools.recording import record

CASES = {"strided, batch 1": ((2, 2, 1), 1), "strided, batch 2": ((2, 2, 1), 2), "stride 1, batch 2": ((1, 1, 1), 2)}


def main() -> None:
    x, y = data.photos(32)
    result = {}
    for name, (strides, batch) in CASES.items():
        model = models.lenet(strides=strides, spread=0.5 if strides == (2, 2, 1) else None)
        values = ranks.gradient_spectrum(model, x[:batch], y[:batch])
        kept = values[:: max(1, len(values) // 512)]
        result[name] = {
            "unknowns": len(values),
            "rank": int((values > 1e-7 * values[0]).sum()),
            "every_nth": max(1, len(values) // 512),
            "values": [float(f"{v:.4g}") for v in kept / values[0]],
        }
        print(name, {key: result[name][key] for key in ("unknowns", "rank")}, flush=True)
    print(record("gradient-spectra", "python -m tools.record_gradient_spectra", result))


if __name__ == "__main__":
    main()
