"""What others run exported models with, and how often it gives the labels of `wisesr predict`."""
