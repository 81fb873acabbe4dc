"""What people look at: tables and verdicts as text, the HTML page of a run, overlays of maps.

Nothing is computed here that a table does not have already.
"""
