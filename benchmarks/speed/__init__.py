"""Time and memory, against a named baseline in the same run; docs/performance.md."""
