"""Training: from a recipe to a small model with a card. Needs Lightning, which only fitting.py imports.

recipes.py says what a recipe is, networks.py builds networks, examples.py has the pictures, objectives.py what is minimised and how
well it went, fitting.py the passes over the data, cards.py what is kept, and session.py the way from one end to the other.
"""
