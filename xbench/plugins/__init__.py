"""What a plug-in is: spec strings, declarations, the registry, how a metric's rows reduce, TOML files, citations."""
