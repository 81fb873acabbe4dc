"""From rows to figures and claims: leaderboard, compare, gate, and what papers report.

Each makes one object, which ``xbench.report`` turns into text.
"""
