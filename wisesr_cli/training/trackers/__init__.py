"""Telling experiment trackers of trainings."""
