"""Pictures with ground truth (see CONTRIBUTING.md, "A dataset")."""
