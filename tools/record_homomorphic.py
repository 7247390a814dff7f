"""What encryption costs a client, and what quantization costs in accuracy.

    OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 python -m tools.record_homomorphic

``cost``: one client's update of the network for digits, 4,810 numbers, of three clients of the same weight: seconds of
processor time to encode and encrypt, to add one client's ciphertexts, to decrypt the sum; bytes that a client sends.
Keys have 2048 bits. ``plain`` is the update as it is, in float32. The error is against the sum of the updates.

``accuracy``: federated averaging with clipped and quantized values, five seeds, with the rate that is best of three on
the validation examples of two other seeds. The whole numbers are added without a cipher: they are those that BatchCrypt
decrypts, which is checked first. ``both`` clips and rounds, as BatchCrypt does; ``clip`` only clips; ``round`` only
rounds, with the threshold at the largest magnitude of the layer. What the file already holds is kept; remove the file
to measure all of it again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gilearn.defenses import utility
from gilearn.defenses.aggregation import CKKS, BatchCrypt, Paillier
from gilearn.defenses.aggregation import ckks as under_ckks
from gilearn.defenses.aggregation.batchcrypt import quantize, step_of
from gilearn.defenses.aggregation.paillier import Server, keypair
from gilearn.defenses.aggregation.tally import Tally
from gilearn.defenses.aggregation.vectors import Layers
from gilearn.federated import observe
from gilearn.federated.aggregation import InTheClear
from tools.recording import resume

COMMAND = "python -m tools.record_homomorphic"
RATES = (0.3, 1.0, 3.0)
SEEDS = range(5)
CLIENTS = 3


@dataclass(frozen=True, kw_only=True)
class InTheOpen(BatchCrypt):
    """BatchCrypt without the cipher: the same whole numbers, added."""

    arm: str = "both"

    def total(self, vectors: Mapping[int, Layers], weights: Mapping[int, int], tally: Tally) -> Layers:
        columns = list(zip(*vectors.values(), strict=True))
        if self.arm == "round":
            limits = [max(float(np.abs(layer).max()) for layer in column) for column in columns]
        else:
            moments = np.array([sum(float(layer @ layer) for layer in column) for column in columns])
            limits = self.limits(moments, [len(column[0]) for column in columns], len(vectors))
        sums = []
        for column, limit in zip(columns, limits, strict=True):
            if self.arm == "clip":
                kept, step = [np.clip(layer, -limit, limit) for layer in column], 1.0
            else:
                kept, step = [quantize(layer, limit, self.bits) for layer in column], step_of(limit, self.bits)
            sums.append(step * sum(w * layer for w, layer in zip(weights.values(), kept, strict=True)))
        return sums


def updates(number: int) -> dict[int, tuple[torch.Tensor, ...]]:
    """Return what clients of the task for digits share in the first round."""
    task = utility.TASKS["digits"]
    x, y = task.load(0)
    rows = [slice(k * task.examples, (k + 1) * task.examples) for k in range(number)]
    return {k: observe(task.build(0), x[row], y[row], local=task.local).shared for k, row in enumerate(rows)}


def check() -> None:
    shared = updates(CLIENTS)
    for counts in ({0: 300, 1: 300, 2: 300}, {0: 300, 1: 100, 2: 200}):
        for bits in (3, 8, 16):
            encrypted, opened = (
                how.aggregate(shared, counts, number=1).mean
                for how in (BatchCrypt(bits=bits, key_bits=512), InTheOpen(bits=bits))
            )
            assert all(torch.equal(a, b) for a, b in zip(encrypted, opened, strict=True))


def cost(method: str, bits: int | None) -> dict[str, Any]:
    vectors = {k: [t.double().flatten().numpy() for t in own] for k, own in updates(CLIENTS).items()}
    flats = [np.concatenate(layers) for layers in vectors.values()]
    truth = sum(flats)
    if method == "plain":
        began = time.process_time()
        total = sum(flat.astype(np.float32) for flat in flats)
        add = (time.process_time() - began) / CLIENTS
        return shown(len(truth), 1, 4 * len(truth), 0.0, add, 0.0, float(np.abs(total - truth).max()))
    if method == "CKKS":
        return cost_ckks(flats, truth)
    public, secret = keypair(2048)
    if method == "BatchCrypt":
        how = BatchCrypt(bits=bits)
        moments = np.array([sum(float(v @ v) for v in column) for column in zip(*vectors.values(), strict=True)])
        sizes = [len(layer) for layer in vectors[0]]
        limits, packing = how.limits(moments, sizes, CLIENTS), how.packing(CLIENTS)

        def encrypted(layers):
            levels = [quantize(layer, limit, bits) for layer, limit in zip(layers, limits, strict=True)]
            return public.encrypt(packing.pack(np.concatenate(levels).tolist(), public.room))

        def decrypted(total):
            sums = packing.unpack(secret.decrypt(total), len(truth), public.room)
            return sums * np.repeat([step_of(limit, bits) for limit in limits], sizes)
    else:
        codec = Paillier(packed=method == "packed").codec(CLIENTS)
        packing = codec.packing

        def encrypted(layers):
            return codec.encrypt(np.concatenate(layers), public)

        def decrypted(total):
            return codec.decrypt(total, secret, len(truth))

    began = time.process_time()
    first = encrypted(vectors[0])
    encrypt = time.process_time() - began
    # unpacked, the other two clients' vectors are the first one's: a minute and a half less, and the same work
    others = [first, first] if method == "unpacked" else [encrypted(vectors[k]) for k in (1, 2)]
    server = Server(room=CLIENTS)
    began = time.process_time()
    for one in (first, *others):
        server.add(one)
    add = (time.process_time() - began) / CLIENTS
    began = time.process_time()
    total = decrypted(server.total)
    decrypt = time.process_time() - began
    truth = CLIENTS * flats[0] if method == "unpacked" else truth
    error = float(np.abs(total - truth).max())
    return shown(packing.capacity(public.room), len(first), first.nbytes, encrypt, add, decrypt, error)


def cost_ckks(flats: list[Any], truth: Any) -> dict[str, Any]:
    how = CKKS()
    secret, public = how.contexts()
    began = time.process_time()
    first = how.encrypt(flats[0], secret, CLIENTS)
    encrypt = time.process_time() - began
    others = [how.encrypt(flat, secret, CLIENTS) for flat in flats[1:]]
    server = under_ckks.Server(public)
    began = time.process_time()
    for one in (first, *others):
        server.add(one)
    add = (time.process_time() - began) / CLIENTS
    forwarded = server.forward()
    began = time.process_time()
    total = how.decrypt(forwarded, secret)
    decrypt = time.process_time() - began
    error = float(np.abs(total - truth).max())
    return shown(how.slots, len(first), sum(map(len, first)), encrypt, add, decrypt, error)


def shown(
    capacity: int, ciphertexts: int, size: int, encrypt: float, add: float, decrypt: float, error: float
) -> dict[str, Any]:
    seconds = {"encrypt": encrypt, "add": add, "decrypt": decrypt}
    own = {"capacity": capacity, "ciphertexts": ciphertexts, "bytes": size, "error": float(f"{error:.3g}")}
    return own | {name: float(f"{value:.3g}") for name, value in seconds.items()}


def accuracy(task: str, arm: str, bits: int | None) -> dict[str, Any]:
    what = {"aggregation": InTheClear() if bits is None else InTheOpen(bits=bits, arm=arm)}
    training = utility.tuned(utility.TASKS[task], rates=RATES, seeds=(5, 6), **what)
    found = utility.measure(training, seeds=SEEDS, **what)
    return {
        "lr": training.local.lr,
        "accuracy": [round(value, 4) for value in found["accuracy"]],
        "seconds": round(float(found["seconds"].median()), 2),
    }


def plan() -> Iterator[tuple[dict[str, Any], Any]]:
    for method, bits in (
        ("plain", None), ("packed", None), ("BatchCrypt", 16), ("BatchCrypt", 8), ("BatchCrypt", 4), ("CKKS", None),
        ("unpacked", None),
    ):  # fmt: skip
        yield {"kind": "cost", "method": method, "bits": bits}, functools.partial(cost, method, bits)
    for task, arm, bits in (
        ("digits", "both", None), ("digits", "both", 2), ("digits", "clip", 2), ("digits", "round", 2),
        ("digits", "both", 3), ("digits", "both", 4), ("digits", "both", 8), ("digits", "both", 16),
        ("faces", "both", None), ("faces", "both", 2), ("faces", "clip", 2), ("faces", "round", 2),
    ):  # fmt: skip
        key = {"kind": "accuracy", "task": task, "arm": arm, "bits": bits}
        yield key, functools.partial(accuracy, task, arm, bits)


def main() -> None:
    check()
    resume("homomorphic", COMMAND, plan())


if __name__ == "__main__":
    main()
