"""Computed from records alone: leaderboards, caveats, plots, panels, the paper's tables."""
