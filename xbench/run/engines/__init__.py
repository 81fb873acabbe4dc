"""Where work units run. Each engine takes units and yields their results in any order."""
