"""From rows to figures and claims: leaderboard, compare, gate."""
