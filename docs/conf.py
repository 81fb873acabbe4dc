"""Sphinx: `make docs` builds docs/_build/html, warnings being errors."""

project = "xbench"
author = "the xbench authors"
copyright = "the xbench authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "xbench"
html_static_path: list[str] = []
