"""Scores of maps, in a folder for each group; one file per protocol (see CONTRIBUTING.md, "A metric").

`_shared.py` and `_similarity.py` hold what several folders use.
"""
