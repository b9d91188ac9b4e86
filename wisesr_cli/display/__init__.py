"""Shows results: tables, progress, plots and pictures."""
