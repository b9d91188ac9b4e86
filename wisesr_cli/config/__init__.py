"""The config: its records, and how YAML and command lines become them."""
