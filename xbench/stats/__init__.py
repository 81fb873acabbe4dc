"""Intervals, tests and agreement; numpy and scipy only."""
