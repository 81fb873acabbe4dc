"""Models behind one contract: feature layers, attention, folding, CLIP towers, zero-shot classifiers."""
