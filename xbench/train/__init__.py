"""Training: from a recipe to a small model with a card. Needs Lightning, which only fitting.py imports.

recipes.py says what a recipe is and contract.py what a trainer is; the trainers that ship are the family trainers/. networks.py
builds networks, examples.py has the pictures, objectives.py what trainers share and how well it went, fitting.py has the passes
over the data, cards.py and weights.py what is kept, and session.py the way from one end to the other.
"""
