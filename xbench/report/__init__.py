"""What people look at: overlays of maps on pictures, and the self-contained HTML page of a run."""
