"""Judging a run on labelled images."""
