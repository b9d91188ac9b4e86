"""Exporting a run's model to other formats, each loaded again and compared."""
