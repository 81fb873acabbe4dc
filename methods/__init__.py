"""Saliency methods, in folders by what they look at; each function is a method (see CONTRIBUTING.md, "A method").

`wrappers.py` holds methods that ask another one, `_shared.py` what several folders use.
"""
