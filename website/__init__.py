"""The documentation site, built of docs/, of the topics of `wisesr help`, and of the code."""
