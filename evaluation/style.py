"""The look of all plots."""

from typing import Any

from matplotlib.rcsetup import cycler

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
STYLE: dict[Any, Any] = {  # matplotlib's type of its keys is newer than the oldest that we take
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'svg.hashsalt': 'birefnet',
    'legend.frameon': False,
    'axes.prop_cycle': cycler(color=COLORS),
}
