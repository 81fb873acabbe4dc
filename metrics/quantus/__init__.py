"""The quantus library's metrics under `quantus/<ClassName>`, unmodified, and those of them that are refused."""
