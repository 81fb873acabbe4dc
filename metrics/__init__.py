"""Scores of maps. One file per protocol (see CONTRIBUTING.md, "A metric")."""
