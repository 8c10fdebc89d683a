"""Arrays, none of them modified, to pictures: maps as RGB, and figures that compare analyzers on all kinds of data."""

from innv_ext.visualization.grid import imshow_grid
from innv_ext.visualization.images import to_rgb
from innv_ext.visualization.maps import back_project, graymap, heatmap
from innv_ext.visualization.overlays import blend, mask_input, scale_input
from innv_ext.visualization.scaling import reduce_channels
from innv_ext.visualization.signals import plot_signals
from innv_ext.visualization.tables import plot_tables
from innv_ext.visualization.token_matrix import plot_token_matrix, token_matrix_to_html
from innv_ext.visualization.tokens import plot_tokens, tokens_to_html
from innv_ext.visualization.volumes import plot_volumes

__all__ = [
    "back_project",
    "blend",
    "graymap",
    "heatmap",
    "imshow_grid",
    "mask_input",
    "plot_signals",
    "plot_tables",
    "plot_token_matrix",
    "plot_tokens",
    "plot_volumes",
    "reduce_channels",
    "scale_input",
    "to_rgb",
    "token_matrix_to_html",
    "tokens_to_html",
]
