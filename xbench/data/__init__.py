"""Images with ground truth: samples, classes, WordNet, reading, geometry."""
