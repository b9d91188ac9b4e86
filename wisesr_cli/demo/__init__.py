"""The demo: pictures of a harbour, drawn and trained on."""
