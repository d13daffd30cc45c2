"""What every experiment shares: config, run folder, timing, limits, progress, figures, report."""
