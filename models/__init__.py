"""Classifiers behind one contract (see CONTRIBUTING.md, "A model")."""
