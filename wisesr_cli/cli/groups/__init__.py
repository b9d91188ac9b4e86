"""Commands that have commands of their own, as `wisesr runs remove`."""
