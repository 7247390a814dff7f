"""COPA on R-GAP's CNN6 with a thin second layer, 20 filters (CNN6-d) and 16: does Gauss-Newton close what is open?

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_copa

One case takes half a minute to two of one processor. Photograph k goes with the weights of seed k; the label is the one
that the network does not predict, and is declared. Cases that the file already holds are kept; remove the file to
measure all of them again.
"""

from __future__ import annotations

import functools
import time
import warnings

import torch

from gilearn import attacks, data, federated, metrics, models, ranks
from tools.recording import resume

COMMAND = "python -m tools.record_copa"
CASES = [(20, 0), (16, 0), (20, 1), (16, 1), (20, 2)]  # filters, photograph and seed


def run(filters: int, case: int) -> dict:
    name = data.PHOTOS[case]
    x = data.photos(32, names=[name])[0].double()
    model = models.cnn6(widths=(12, filters, 36, 36, 64, 128), seed=case).double()
    label = (model(x).detach()[:, 0] < 0).long()
    seen = federated.observe(model, x, label, loss="logistic", declare=["labels"])
    plain = attacks.RGAP.replace(exact_rank_up_to=0)(seen)
    began = time.process_time()
    joint = attacks.COPA.replace(exact_rank_up_to=0)(seen)
    pair = next(report for report in joint.details["layers"] if "+" in report.layer)
    report = ranks.rank_report(model, (3, 32, 32), exact_rank_up_to=0)
    return {
        "filters": filters,
        "photograph": name,
        "seed": case,
        "open": int(report["deficiency"].sum()),
        "psnr_rgap": round(float(metrics.psnr(plain.inputs, x)), 1),
        "psnr_copa": round(float(metrics.psnr(joint.inputs, x)), 1),
        "pair_deficiency": pair.deficiency,
        "courses": [[float(f"{left:.3g}") for left in course] for course in pair.courses],
        "cpu_seconds": round(time.process_time() - began),
    }


def main() -> None:
    warnings.simplefilter("ignore", attacks.RecursionWarning)
    torch.set_num_threads(1)
    plan = [({"filters": f, "seed": case}, functools.partial(run, f, case)) for f, case in CASES]
    resume("copa", COMMAND, plan, hidden=("courses",))


if __name__ == "__main__":
    main()
