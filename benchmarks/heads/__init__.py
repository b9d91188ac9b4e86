"""How accurate heads are, and how certain a difference between two of them is; docs/heads.md."""
