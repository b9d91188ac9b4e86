"""How accurate heads are, and how sure a difference between two of them is; docs/heads.md."""
