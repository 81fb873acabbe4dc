"""Training: from a recipe to a small model with a card. Needs Lightning, which only fitting.py imports.

recipes.py says what a recipe is and tasks.py what its task brings along, networks.py builds networks, examples.py has the pictures,
views.py changes them at random, objectives.py, simclr.py and projecting.py say what is minimised and how well it went,
fitting.py has the passes over the data, cards.py what is kept, and session.py the way from one end to the other.
"""
