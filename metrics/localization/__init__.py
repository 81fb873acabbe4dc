"""Does a map point at the target? Maps against masks, boxes, parts and cells."""
