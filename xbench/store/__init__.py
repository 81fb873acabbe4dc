"""What is kept on disk: run directories, rows, maps, galleries, manifests."""
