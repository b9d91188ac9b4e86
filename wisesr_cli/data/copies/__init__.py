"""Finds pictures that are in two splits or under two labels: as the same file, or as a copy that looks alike."""
