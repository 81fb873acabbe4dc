"""Benchmarks as TOML: which models, methods, datasets and metrics, under which protocol."""
