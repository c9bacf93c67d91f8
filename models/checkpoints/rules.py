"""Renaming of dot-separated keys by tables of rules, in both directions."""

from dataclasses import dataclass
from typing import Self

Rules = tuple[tuple[str, str], ...]


def parse_rules(text: str) -> Rules:
    """The rules of a text with one `old -> new` a line."""
    rules = []
    for line in text.splitlines():
        if line.strip():
            old, new = line.split('->')
            rules.append((old.strip(), new.strip()))
    return tuple(rules)


def _swapped(rules: Rules) -> Rules:
    return tuple((new, old) for old, new in rules)


@dataclass(frozen=True)
class KeyRules:
    """Two tables of rules (old, new); each side is one or several whole parts of a key.

    Of `prefixes`, the first applies whose old side the key begins with. Of `parts`, all apply, in
    order and anywhere in the key.
    """

    prefixes: Rules = ()
    parts: Rules = ()

    @classmethod
    def parse(cls, prefixes: str = '', parts: str = '') -> Self:
        """Reads both tables as text."""
        return cls(parse_rules(prefixes), parse_rules(parts))

    def reversed(self) -> Self:
        """The rules from new names to old ones."""
        prefixes = _swapped(self.prefixes)
        parts = _swapped(self.parts)
        return type(self)(prefixes, parts)

    def rename(self, key: str) -> str:
        """`key` under its new name."""
        return self.rename_parts(self.rename_prefix(key))

    def rename_prefix(self, key: str) -> str:
        """`key` with its beginning renamed."""
        for old, new in self.prefixes:
            if key.startswith(old + '.'):
                return new + key.removeprefix(old)
        return key

    def rename_parts(self, key: str) -> str:
        """`key` with its parts renamed."""
        for old, new in self.parts:
            bounded = f'.{key}.'
            bounded = bounded.replace(f'.{old}.', f'.{new}.')
            key = bounded[1:-1]
        return key
