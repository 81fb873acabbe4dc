"""Runs that others keep: they are checked, and stand with their tables below ``results/``."""
