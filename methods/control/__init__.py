"""Controls: maps that a method must beat, and maps that are worse than a method's by a known degree."""
