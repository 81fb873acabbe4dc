"""What a transformer's attention says."""
