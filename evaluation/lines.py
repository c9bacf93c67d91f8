"""How methods' curves look: colours and dashes that can be told apart."""

from itertools import cycle, islice, product
from typing import NamedTuple

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', '--', ':', '-.')


class Line(NamedTuple):
    """How a method's curve is drawn: its colour, its dashes, and its width in points."""

    color: str
    dashes: str = '-'
    width: float = 1.3


def distinct_lines(number: int) -> list[Line]:
    """Returns lines that differ, as far as there are colours and dashes."""
    looks = cycle(product(DASHES, COLORS))
    return [Line(color, dashes) for dashes, color in islice(looks, number)]
