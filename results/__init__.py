"""Committed reference results, one folder per suite. Local runs go to ``runs/``, which git ignores."""
