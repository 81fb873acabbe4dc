"""From a suite to work units: selection, opening of models and datasets, keys."""
