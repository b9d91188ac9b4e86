"""The config: its records, and how they are built from YAML and command lines."""
