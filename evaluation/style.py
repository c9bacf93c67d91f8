"""The look of all figures: colours, axes, and fonts that have the characters of every name."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from matplotlib.rcsetup import cycler

from evaluation.formats import clean_name
from evaluation.lines import COLORS

STYLE: dict[Any, Any] = {  # matplotlib's type of its keys is newer than the oldest that we take
    'font.size': 9,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'grid.alpha': 0.25,
    'svg.hashsalt': 'birefnet',
    'legend.frameon': False,
    'axes.prop_cycle': cycler(color=COLORS),
    'text.parse_math': False,  # a name with two $ is no formula
    'pdf.fonttype': 42,  # TrueType, as publishers ask for: Type 3 is refused
}
FONT = 'DejaVu Sans'  # comes with matplotlib
SANS_SERIF = ('sans', 'hei', 'gothic')


@contextmanager
def drawing(names: Iterable[str], style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Inside the block figures are drawn in our style, and show these names as they are.

    Args:
        names: The texts that users choose. Where matplotlib's own font lacks a character, an
            installed font that has it is taken; one warning names those that no font has.
        style: Settings of matplotlib beside ours.
    """
    texts = [clean_name(name) for name in names]
    families = [FONT, *_further_fonts(''.join(texts))]
    settings = {**STYLE, 'font.family': families, **(style or {})}
    # What is missing has been named, and a font of another weight is good enough.
    log = logging.getLogger('matplotlib.font_manager')
    log.addFilter(_is_error)
    try:
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Glyph ')
            yield
    finally:
        log.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _further_fonts(text: str) -> tuple[str, ...]:
    """Finds installed fonts for the characters that matplotlib's font lacks."""
    path = font_manager.findfont(FONT)
    own = FT2Font(path).get_charmap()
    missing = frozenset(character for character in text if ord(character) not in own)
    if not missing:
        return ()
    return _fonts_with(missing)


@lru_cache
def _fonts_with(characters: frozenset[str]) -> tuple[str, ...]:
    """Finds as few installed fonts as have these characters, and makes matplotlib know them."""
    missing = set(characters)
    families = []
    for path, font in _installed_fonts():
        charmap = font.get_charmap()
        found = {character for character in missing if ord(character) in charmap}
        if found:
            # matplotlib's own list of fonts may be older than the font.
            font_manager.fontManager.addfont(path)
            families.append(font.family_name)
            missing -= found
        if not missing:
            return tuple(families)
    listed = ' '.join(sorted(missing))
    warnings.warn(f'no installed font has {listed}: figures show boxes there; install one')
    return tuple(families)


def _installed_fonts() -> list[tuple[str, FT2Font]]:
    """Lists the installed fonts: regular ones first, without serifs, with TrueType outlines."""
    fonts = []
    for path in sorted(font_manager.findSystemFonts()):
        try:
            fonts.append((path, FT2Font(path)))
        except (OSError, RuntimeError):
            continue  # a kind of font that matplotlib does not read
    return sorted(fonts, key=lambda found: _drawbacks(found[1]))


def _drawbacks(font: FT2Font) -> tuple[bool, bool, bool]:
    family = font.family_name.lower()
    is_regular = font.style_name in ('Regular', 'Book', 'Medium')
    is_sans_serif = any(word in family for word in SANS_SERIF)
    # Outlines of PostScript would be embedded as such, which not every reader of PDF takes.
    profile = font.get_sfnt_table('maxp')
    is_truetype = profile is not None and profile['version'] == (1, 0)
    return not is_regular, not is_sans_serif, not is_truetype
