"""wisesr side by side with other tools that train and use image classifiers: `python -m benchmarks.peers`."""
