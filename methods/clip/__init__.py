"""Methods for CLIP: where in an image a text is meant. Nothing here is trained."""
