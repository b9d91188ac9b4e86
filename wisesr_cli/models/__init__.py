"""Models: backbones, heads, their costs, how they are built, loaded and rebuilt."""
