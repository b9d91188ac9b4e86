"""Training a classifier: from a config to a run directory with its best model."""
