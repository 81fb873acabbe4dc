"""Results that others keep: submissions and their checks."""
