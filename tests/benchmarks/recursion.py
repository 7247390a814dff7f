"""What the matrix-free solver saves: R-GAP on CNN6 at 32x32, against dense least squares on the same layers.

    python -m tests.benchmarks.recursion

Needs 6 GB for the dense one. Each runs in a process of its own; memory is the peak that the attack adds to it.
"""

from __future__ import annotations

from tools.record_recursion_cost import measured


def main() -> None:
    print("recursion: dense least squares / matrix-free on CNN6 at 32x32 (bars: time 50, memory 5)")
    ours, dense = measured("ours", "cnn6"), measured("dense", "cnn6")
    for name, result in (("matrix-free", ours), ("dense", dense)):
        added = result["peak_mb"] - result["before_mb"]
        print(f"  {name:12s} {result['seconds']:8.2f} s {added:6d} MB {result['psnr']:6.1f} dB")
    added_mb = [max(1, r["peak_mb"] - r["before_mb"]) for r in (dense, ours)]
    print(
        f"  time {dense['seconds'] / ours['seconds']:.0f} x, memory added {added_mb[0] / added_mb[1]:.0f} x, ", end=""
    )
    print(f"peak of the process {dense['peak_mb'] / ours['peak_mb']:.1f} x")


if __name__ == "__main__":
    main()
