"""Other runtimes for exported models, and how often they give the labels of `wisesr predict`."""
