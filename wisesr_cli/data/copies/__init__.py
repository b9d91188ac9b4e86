"""Finds pictures that occur in two splits or with two labels, as identical files or as near-duplicates."""
