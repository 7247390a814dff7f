"""What packing and CKKS save over Paillier one value at a time, and what a key pair takes: ratios in one run.

    python -m tests.benchmarks.encryption

Encryption and decryption of the same 47 fixed-point numbers under one 2,048-bit key, in turns, and under CKKS, whose
ciphertext would hold thousands. A key pair is two random primes, so that its time is spread; it is printed apart.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from gilearn.defenses.aggregation import CKKS, Paillier
from gilearn.defenses.aggregation.paillier import keypair

VALUES = np.linspace(-1, 1, 47)


def main() -> None:
    pairs = [timed(lambda: keypair(2048)) for _ in range(10)]
    public, secret = keypair(2048)
    single, packed = (Paillier(packed=packed).codec(summands=3) for packed in (False, True))
    cipher = CKKS()
    secrets = cipher.contexts()[0]
    ways: dict[str, Callable[[], object]] = {
        "one by one": lambda: single.decrypt(single.encrypt(VALUES, public), secret, 47),
        "packed": lambda: packed.decrypt(packed.encrypt(VALUES, public), secret, 47),
        "CKKS": lambda: cipher.decrypt(cipher.encrypt(VALUES, secrets), secrets),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(10):
        for name, way in ways.items():
            times[name].append(timed(way))
    best = {name: min(found) for name, found in times.items()}
    print("47 values, one by one / in another way, seconds of processor time (packed: bar 25)")
    for name in ("packed", "CKKS"):
        print(f"  {name:12s} {best['one by one'] / best[name]:.0f}")
    middle, most = (how(pairs) / best["packed"] for how in (statistics.median, max))
    print(f"a key pair / one packed ciphertext: median {middle:.0f}, most {most:.0f}")


def timed(way: Callable[[], object]) -> float:
    """Seconds of processor time of one call."""
    began = time.process_time()
    way()
    return time.process_time() - began


if __name__ == "__main__":
    main()
