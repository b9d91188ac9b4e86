"""The run directory: its names, its folders, its records, its state."""
