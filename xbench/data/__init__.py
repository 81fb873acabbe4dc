"""Images with their ground truth: samples, classes, WordNet, how files are read, and geometry.

Geometry says how an image becomes a model's input, and how ground truth and maps follow it.
"""
