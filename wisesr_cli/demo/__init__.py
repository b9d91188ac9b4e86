"""The demo: draws pictures of a harbour and trains on them."""
