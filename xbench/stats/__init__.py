"""Intervals, tests and agreement of what methods score; numpy and scipy only."""
