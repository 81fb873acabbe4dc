"""What is kept on disk: run directories with rows, maps, galleries and manifests.

A file appears under its name only when it is whole, and what is damaged is refused in one line.
"""
