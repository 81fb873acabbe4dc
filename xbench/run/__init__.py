"""Runs from request to rows, and other whole jobs: single explanations, meta-evaluation of metrics."""
