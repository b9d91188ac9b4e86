"""Time and memory, beside a named baseline in the same run; docs/performance.md."""
