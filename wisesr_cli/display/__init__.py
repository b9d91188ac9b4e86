"""Showing results: tables, progress, plots and pictures."""
