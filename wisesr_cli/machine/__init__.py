"""The machine: files, locks, signals, threads, memory, and starting Keras."""
