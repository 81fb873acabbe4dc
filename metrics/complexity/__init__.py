"""How concentrated a map is, whatever it points at."""
