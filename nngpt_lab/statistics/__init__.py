"""Intervals, verdicts, and the look of the figures."""
