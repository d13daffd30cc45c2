"""What every experiment shares: config, run folder, timing, limits, progress, figures, report."""

from experiments.harness.rows import read

__all__ = ["read"]
