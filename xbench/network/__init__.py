"""Models behind one contract, and the view of a batch through which methods see them.

Beside it lies what is read off a network of whatever kind: feature layers, attention, the towers of a CLIP, zero-shot classes.
"""
