"""One work unit: methods explain a block of images, metrics score the maps, and rows come out."""
