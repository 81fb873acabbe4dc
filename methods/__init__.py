"""Saliency methods. One file per family; each function is a method (see CONTRIBUTING.md, "A method")."""
