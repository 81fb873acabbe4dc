"""Gradients with respect to the input, and rules that take the place of gradients on their way back to it."""
