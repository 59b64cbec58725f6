"""What the fuzz runs share: outcomes, findings, and the memory that one case took."""

import argparse
import collections
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

MEMORY_LIMIT = 2 * 2**30  # for a file below 1 MB
TIME_LIMIT_S = 60.0


@dataclasses.dataclass
class Tally:
    """Outcomes by kind, and one text for every kind of finding."""

    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    findings: dict[str, str] = dataclasses.field(default_factory=dict)
    peak_bytes: int = 0  # what the hungriest case took beyond what the process held before it

    def run(self, number: int, case: Callable[[], str]) -> None:
        """Run one case. What it raises, more than 2 GB or more than a minute is a finding."""
        before = reset_peak()
        start = time.monotonic()
        try:
            outcome = case()
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:60]}"
            self.findings.setdefault(outcome, f"case {number}\n{traceback.format_exc()}")
        self.outcomes[outcome] += 1
        if (spent := time.monotonic() - start) > TIME_LIMIT_S:
            self.findings.setdefault("slow", f"case {number} took {spent:.0f} s")
        peak = memory_bytes("VmHWM") - before if before else 0
        self.peak_bytes = max(self.peak_bytes, peak)
        if peak > MEMORY_LIMIT:
            self.findings.setdefault("memory", f"case {number} took {peak / 2**30:.1f} GiB")

    def report(self) -> int:
        """Print it; 1 if anything was found."""
        for outcome, count in self.outcomes.most_common():
            print(f"{count:7d}  {outcome}")
        for text in self.findings.values():
            print(text)
        total = self.outcomes.total()
        print(f"{total} cases, most memory of a case {self.peak_bytes / 2**20:.0f} MiB, {len(self.findings)} findings")
        return int(bool(self.findings))


def reset_peak() -> int:
    """Begin to measure the peak of this process's memory anew; what it holds now, 0 where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return memory_bytes("VmRSS")


def memory_bytes(field: str) -> int:
    """Resident memory of this process: `VmRSS` now, `VmHWM` at most since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def command_line(doc: str | None, fuzz: Callable[[int, int], Tally]) -> None:
    """`--cases` and `--seed` for a fuzz run; exits with 1 if anything was found."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(fuzz(arguments.cases, arguments.seed).report())
