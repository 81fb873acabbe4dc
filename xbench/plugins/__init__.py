"""What a plug-in is and how it is found: spec strings, declarations, the registry, reductions.

Two more things are here for all that come after: TOML files with errors that name the line (``toml``), and what code imports, of
which the keys of rows are made (``importing``, ``sources``, ``rooms``).
"""
