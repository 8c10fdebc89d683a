"""Arrays to pictures: relevance maps as RGB arrays, and comparison grids as matplotlib figures."""

from innv_ext.visualization.grid import imshow_grid
from innv_ext.visualization.images import to_rgb
from innv_ext.visualization.maps import back_project, graymap, heatmap
from innv_ext.visualization.overlays import blend, mask_input, scale_input
from innv_ext.visualization.scaling import reduce_channels

__all__ = [
    "back_project",
    "blend",
    "graymap",
    "heatmap",
    "imshow_grid",
    "mask_input",
    "reduce_channels",
    "scale_input",
    "to_rgb",
]
