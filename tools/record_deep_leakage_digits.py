"""DLG on digits of 8x8: full steps at three rates beside a line search, activations, labels searched or declared.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python -m tools.record_deep_leakage_digits

Twenty-four networks, each with digits of its own; every search has one start, and at most 250 evaluations (batches of
two: 500). Two minutes of one core. What is finished is kept: a run that is stopped goes on.
"""

from __future__ import annotations

from typing import Any

from gilearn import attacks, data, federated, metrics, models
from tools.recording import known, record

NAME, COMMAND = "deep-leakage-digits", "python -m tools.record_deep_leakage_digits"
DLG = attacks.DLG.replace(iterations=10, restarts=1)
FULL = DLG.replace(iterations=12)  # a full step costs one evaluation, twenty an iteration
TWO = DLG.replace(iterations=20)
WIDE: dict[str, Any] = {"activation": "sigmoid"}
RUNS: dict[str, tuple[attacks.GradientMatching, dict[str, Any], int]] = {
    "strong Wolfe": (DLG, WIDE, 1),
    "full steps, rate 1": (FULL.replace(optimizer=attacks.optimizers.LBFGS(line_search_fn=None)), WIDE, 1),
    "full steps, rate 0.3": (FULL.replace(optimizer=attacks.optimizers.LBFGS(lr=0.3, line_search_fn=None)), WIDE, 1),
    "full steps, rate 0.1": (FULL.replace(optimizer=attacks.optimizers.LBFGS(lr=0.1, line_search_fn=None)), WIDE, 1),
    "two digits, labels declared": (TWO.replace(labels=attacks.labels.Declared()), WIDE, 2),
    "two digits, labels searched": (TWO, WIDE, 2),
    "tanh, wide": (DLG, {"activation": "tanh"}, 1),
    "ReLU, wide": (DLG, {"activation": "relu"}, 1),
    "ReLU, default": (DLG, {"activation": "relu", "spread": None}, 1),
    "softplus, default": (DLG, {"activation": "softplus", "spread": None}, 1),
}


def main() -> None:
    x, y = data.digits(48, fold=77)
    x = x.double()
    result: dict[str, list[dict[str, Any]]] = known(NAME, {})
    for name, (attack, options, batch) in RUNS.items():
        if name in result:
            continue
        result[name] = []
        for case in range(24):
            own = slice(batch * case, batch * (case + 1))
            model = models.lenet(1, size=8, strides=(1, 1, 1), seed=200 + case, **options).double()
            seen = federated.observe(model, x[own], y[own], declare=["labels"])
            found = attack(seen, seed=case)
            assert found.labels is not None
            right = metrics.label_accuracy(found.labels, y[own]) == 1
            result[name].append({
                "mse": float(f"{metrics.mse(found.inputs, x[own]):.3g}"),
                "labels": right,
                "residual": float(f"{found.residual:.3g}"),
                "evaluations": len(found.history),
            })  # fmt: skip
        print(name, metrics.success_rate(row["mse"] < 1e-6 for row in result[name]), flush=True)
        record(NAME, COMMAND, result)


if __name__ == "__main__":
    main()
