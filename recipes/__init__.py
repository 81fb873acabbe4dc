"""Trainings as TOML: which network on which data, under which schedule."""
