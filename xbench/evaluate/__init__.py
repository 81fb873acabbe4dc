"""One work unit: images to maps, values and rows."""
