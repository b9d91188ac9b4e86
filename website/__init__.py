"""The documentation site, built from docs/, the topics of `wisesr help`, and the code."""
