"""Published weights in tables: which there are, and which to take."""

import dataclasses
import json
from collections.abc import Iterable

from tabulate import tabulate

from models.zoo import Published

# Millions of parameters of the whole network, by backbone.
PARAMETERS = {'swin_v1_l': 220.2, 'swin_v1_t': 44.3}
COLUMNS = ('name', 'for', 'trained at', 'backbone', 'published', 'licence of the weights')
UNBROKEN = ('name', 'trained at', 'backbone')  # columns whose cells are short
LEGEND = """\
NC: non-commercial use only. ?: not checked against its source. Sets for training have terms of
their own; `python export.py zoo NAME` shows them, and all else that is known."""


def marked(entry: Published, field: str) -> str:
    """A fact as text, with a question mark if nobody has checked it; '' if it is not known."""
    value = str(getattr(entry, field))
    return f'{value} ?' if value and field in entry.unverified else value


def size_text(entry: Published) -> str:
    """Width x height, or the range of it."""
    if not entry.dynamic_size:
        width, height = entry.size
        return f'{width}x{height}'
    (least_width, most_width), (least_height, most_height) = entry.dynamic_size
    return f'{least_width}x{least_height} to {most_width}x{most_height}'


def weight_text(entry: Published) -> str:
    """Parameters, and the size of a file of them."""
    millions = PARAMETERS[entry.backbone]
    return f'{millions} M parameters, about {4 * millions:.0f} MB in float32'


def row(entry: Published) -> list[str]:
    """What COLUMNS name."""
    terms = marked(entry, 'license')
    if entry.noncommercial:
        terms = f'NC: {terms}'
    return [
        entry.name,
        entry.purpose,
        size_text(entry),
        entry.backbone,
        marked(entry, 'date'),
        terms,
    ]


def overview(entries: Iterable[Published], width: int = 42) -> str:
    """A table of entries for a terminal, whose cells are broken into lines of `width` letters."""
    rows = [row(entry) for entry in entries]
    widths = [None if title in UNBROKEN else width for title in COLUMNS]
    table = tabulate(rows, COLUMNS, maxcolwidths=widths)
    return f'{table}\n\n{LEGEND}'


def facts(entry: Published) -> dict[str, str]:
    """All that is known of an entry, by what it is called."""
    found = {
        'for': entry.purpose,
        'task': marked(entry, 'task'),
        'trained at': size_text(entry),
        'backbone': entry.backbone,
        'size': weight_text(entry),
        'published': marked(entry, 'date'),
        'trained on': marked(entry, 'training_sets'),
        'licence of the weights': marked(entry, 'license'),
        'commercial use': 'excluded' if entry.noncommercial else '',
        'terms of the sets': marked(entry, 'data_license'),
        'repository': marked(entry, 'repository'),
        'release file': marked(entry, 'release'),
        'by hand': '' if entry.has_source else f'as {" or ".join(entry.file_names)}',
        'compare with': ', '.join(entry.relatives),
    }
    return {name: text for name, text in found.items() if text}


def details(entry: Published) -> str:
    """All that is known of an entry, a fact a line."""
    lines = [entry.name]
    for name, text in facts(entry).items():
        lines.append(f'  {name}: {text}')
    return '\n'.join(lines)


def as_json(entries: Iterable[Published]) -> str:
    """All fields of entries, as JSON."""
    return json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2)
