"""Whole jobs: a run from request to rows, single explanations, meta-evaluation of metrics."""
