"""A pytest plugin: at the end of a run, the ten files that took longest. `pytest -p tools.slowest`."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter) -> None:
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    terminalreporter.section("slowest 10 files")
    for file, spent in seconds.most_common(10):
        terminalreporter.write_line(f"{spent:7.1f} s  {file}")
    terminalreporter.write_line(f"{sum(seconds.values()):7.1f} s  all {len(seconds)}")
