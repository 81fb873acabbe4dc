"""From a suite to work units: what is asked is bound to plug-ins, opened, given keys, and cut.

What the run directory has already is left out.
"""
