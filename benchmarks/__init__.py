"""The benchmarks; each is run from the root of the repository: `python -m benchmarks.speed.startup`."""
