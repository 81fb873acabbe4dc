"""Does a map say what the network uses? What its output does while pixels are taken away, or come back."""
