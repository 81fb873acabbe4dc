"""Pictures with ground truth; one file for each dataset here and in `generated/` (see CONTRIBUTING.md, "A dataset").

`readers/` reads what datasets are stored as.
"""
