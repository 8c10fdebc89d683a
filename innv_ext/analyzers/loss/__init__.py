"""CAFO, CASO and MoreauGrad: the loss or the score around x."""
