"""Checked settings: conversion of values, legal values, and errors that name every offending field.

config.py holds the fields themselves. The type of a field says what is legal: a `Literal` lists
the choices, alone or inside a tuple or as the keys of a dict; `Literal[...] | str` also allows what
matches the field's pattern.
Only the standard library is imported.
"""

import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, Union

BOOLEANS = {'true': True, '1': True, 'yes': True, 'false': False, '0': False, 'no': False}
NOTHING = (None, 'None', 'none')  # as written behind a command or in JSON
# What `convert` and Python's own parser raise for values that they cannot read.
UNREADABLE = (
    ArithmeticError, KeyError, TypeError, ValueError, SyntaxError, RecursionError, MemoryError)


class _Auto:
    """The type of `AUTO`, of which there is one instance, also after pickling and copying."""

    def __repr__(self) -> str:
        return 'AUTO'

    def __reduce__(self) -> str:
        return 'AUTO'


# The default of a field whose value follows from other fields.
AUTO: Any = _Auto()


class ConfigError(ValueError):
    """A line for each unknown field, wrong type, illegal value, and pair of exclusive values."""


@dataclass(frozen=True)
class Rule:
    """What is known of a field beside its type.

    Args:
        meaning: one line for `python config.py` and the documents.
        minimum: the least legal number, of each number in a tuple.
        pattern: a regular expression. A field with choices also allows what matches it.
        form: the pattern in words.
        refused: values that users of other programs expect, and why there are none here.
    """

    meaning: str
    minimum: float | None = None
    pattern: str = ''
    form: str = "a plain name, or set names joined by '+'"
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)


def option(default: Any, meaning: str, **rule: Any) -> Any:
    """A dataclass field with its `Rule`."""
    return field(default=default, metadata={'rule': Rule(meaning, **rule)})


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class ForeignName:
    """What stands here for a field of another program's settings.

    Args:
        field: the field of the same meaning; '' if there is none.
        note: how its value differs, or why there is none.
        convert: from a value there to the value here; raises ConfigError or one of `UNREADABLE`.
        restore: from the value here to the value there.
        only: without a field, the value there that says what always holds here; None: no value.
            It may be written as text.
        ignored: without a field, whether any value is taken, as it makes no difference here.
    """

    field: str = ''
    note: str = ''
    convert: Callable[[Any], Any] = _unchanged
    restore: Callable[[Any], Any] = _unchanged
    only: Any = None
    ignored: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of a frozen dataclass of options. Construction converts and checks every field.

    Raises:
        ConfigError: with a line for each offending field, which names the nearest legal values.
    """

    # Names of another program's that overrides and saved settings may have. One that ends in '.*'
    # stands for each entry of a dictionary.
    foreign_names: ClassVar[Mapping[str, ForeignName]] = {}

    def __post_init__(self) -> None:
        values, problems = self._converted()
        if not problems:
            self._set(values)
            problems = list(self.contradictions())
        if problems:
            raise ConfigError('\n'.join(problems))

    def automatic(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values for the fields left at `AUTO`; `given` holds the others."""
        return {}

    def contradictions(self) -> Iterable[str]:
        """A line for each rule between fields that is broken."""
        return ()

    def _converted(self) -> tuple[dict[str, Any], list[str]]:
        """The fields' values in their types, `AUTO` filled in, and what is wrong with them."""
        given = {}
        problems = []
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            if spec.default is AUTO and (value is AUTO or value in NOTHING):
                continue
            hint = type_hints(type(self))[spec.name]  # type: ignore[arg-type]  # a class has a hash
            try:
                given[spec.name] = convert(value, plain_type(hint))
            except UNREADABLE:
                problems.append(f'{spec.name}: {value!r} is not {describe_type(hint)}')
                continue
            complaint = complain(spec.name, given[spec.name], rule_of(spec), choices_of(hint))
            if complaint:
                problems.append(complaint)
        if problems:
            return given, problems
        return {**self.automatic(given), **given}, problems

    def _set(self, values: Mapping[str, Any]) -> None:
        """Sets the fields. The dataclass is frozen for everybody but its own construction."""
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, values[spec.name])

    if not TYPE_CHECKING:  # which would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """What a name of another program stands for; AttributeError for other names."""
            foreign = self._find_foreign(name)
            if foreign is None:
                text = f'{type(self).__name__} has no field {name!r}'
                raise AttributeError(text, name=name, obj=self)
            if foreign.field:
                return foreign.restore(getattr(self, foreign.field))
            if foreign.only is None:
                raise AttributeError(f'{name}: {foreign.note}')
            return foreign.only

    @classmethod
    def translate(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values by fields, of values by fields or by another program's names.

        Raises:
            ConfigError: with a line for each name that stands for no field.
        """
        values, problems = cls._translate_all(given.items())
        if problems:
            raise ConfigError('\n'.join(problems))
        return values

    @classmethod
    def from_overrides(
        cls, overrides: Iterable[str], base: Mapping[str, Any] | None = None,
    ) -> Self:
        """Builds settings from `key=value` strings.

        Args:
            overrides: `name=value`, or `name.key=value` for a single entry of a dict, which joins
                the entries that the other overrides lead to, whatever their order.
            base: values of fields beneath the overrides, for example those of a saved config.

        Raises:
            ConfigError: see the class.
        """
        given: list[tuple[str, Any]] = list((base or {}).items())
        problems = []
        for text in overrides:
            name, equals, value = text.partition('=')
            if equals:
                given.append((name, value))
            else:
                problems.append(f'{text!r}: write key=value')

        # Entries of dicts apart: they join what the other overrides lead to.
        whole = []
        entries: dict[str, dict[str, str]] = {}
        for name, value in given:
            owner, dot, key = name.partition('.')
            if dot and cls._is_dict(owner):
                entries.setdefault(owner, {})[key] = value
            else:
                whole.append((name, value))
        values, untranslated = cls._translate_all(whole)
        problems += untranslated
        if problems:
            raise ConfigError('\n'.join(problems))
        if entries:
            without = cls(**values)
            for owner, added in entries.items():
                values[owner] = getattr(without, owner) | added
        return cls(**values)

    @classmethod
    def _translate_all(
        cls, given: Iterable[tuple[str, Any]],
    ) -> tuple[dict[str, Any], list[str]]:
        """Values by fields, the last of each, and what is wrong with names."""
        values: dict[str, Any] = {}
        problems = []
        for name, value in given:
            try:
                values |= cls._translated(name, value)
            except ConfigError as error:
                problems.append(str(error))
        return values, [*problems, *cls.unknown(values)]

    @classmethod
    def _translated(cls, name: str, value: Any) -> dict[str, Any]:
        """The field that `name` means, with its value; {} where all holds here without a field."""
        foreign = cls._find_foreign(name)
        if foreign is None:
            return {name: value}
        holds = foreign.only is not None and str(foreign.only).lower() == str(value).lower()
        if holds or foreign.ignored:
            return {}
        if not foreign.field:
            raise ConfigError(f'{name}: {foreign.note}')
        try:
            return {foreign.field: foreign.convert(value)}
        except ConfigError:
            raise
        except UNREADABLE as error:
            hint = f' ({foreign.note})' if foreign.note else ''
            raise ConfigError(f'{name}: {value!r} gives no {foreign.field}{hint}') from error

    @classmethod
    def _find_foreign(cls, name: str) -> ForeignName | None:
        owner, dot, _ = name.partition('.')
        any_entry = f'{owner}.*' if dot else ''
        return cls.foreign_names.get(name) or cls.foreign_names.get(any_entry)

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Reads the settings saved at `path` (JSON), with `key=value` overrides.

        Raises:
            ConfigError: also if the file is not JSON.
            OSError: if it cannot be read.
        """
        try:
            # Some editors begin a file with a byte order mark.
            values = json.loads(Path(path).read_text(encoding='utf-8-sig'))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f'{path}: not JSON ({error})') from error
        if not isinstance(values, dict):
            raise ConfigError(f'{path}: holds no fields by name')
        overrides = list(overrides)
        try:
            return cls.from_overrides(overrides, values)
        except ConfigError as error:
            sources = ' over '.join([*overrides, str(path)])
            raise ConfigError(f'{sources}: {error}') from error

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values (tuples as lists)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def unknown(cls, names: Iterable[str]) -> list[str]:
        """A line, with the nearest known names, for each of `names` that is not a field."""
        known = [spec.name for spec in dataclasses.fields(cls)]
        complaints = []
        for name in names:
            if name in known:
                continue
            if foreign := cls._find_foreign(name):
                called = f'called {foreign.field} here' if foreign.field else foreign.note
                complaints.append(f'{name}: {called}')
                continue
            near = difflib.get_close_matches(name, known, n=3, cutoff=.4)
            hint = ' or '.join(near) or 'one of ' + ', '.join(known)
            complaints.append(f'{name}: no such field; did you mean {hint}?')
        return complaints

    @classmethod
    def _is_dict(cls, name: str) -> bool:
        hints = type_hints(cls)  # type: ignore[arg-type]  # a class has a hash
        return typing.get_origin(hints.get(name)) is dict


T = TypeVar('T', bound=Settings)


def explained(cls: type[T]) -> type[T]:
    """Decorator of a dataclass of settings, for those who know another program's.

    Its arguments may have the names of that program, and an error says where fields are set.
    """
    build = cls.__init__

    @functools.wraps(build)
    def __init__(self: T, **given: Any) -> None:
        build(self, **cls.translate(given))

    def __setattr__(self: T, name: str, value: Any) -> None:
        title = cls.__name__
        raise dataclasses.FrozenInstanceError(
            f'{name}: fields are set where a {title} is made: {title}({name}=...), or '
            f'dataclasses.replace(config, {name}=...)')

    cls.__init__ = __init__  # type: ignore[method-assign, assignment]
    cls.__setattr__ = __setattr__  # type: ignore[method-assign, assignment]
    return cls


# --- Types of fields ----------------------------------------------------------------------------


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The types of a class's fields by name."""
    return typing.get_type_hints(cls)


def rule_of(spec: dataclasses.Field) -> Rule:
    """The rule that `option` gave a field."""
    return spec.metadata['rule']


def choices_of(hint: Any) -> tuple:
    """The choices of the first `Literal` in a type; () without one."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    for part in typing.get_args(hint):
        choices = choices_of(part)
        if choices:
            return choices
    return ()


def plain_type(hint: Any) -> Any:
    """Replaces each `Literal` by the type of its choices.

    tuple[Literal[1, 2], ...] becomes tuple[int, ...], and `Literal[...] | str` becomes str.
    """
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if origin is Literal:
        return type(parts[0])
    if origin in (Union, types.UnionType):
        if type(None) in parts:
            return plain_type(parts[0]) | None
        return str  # Literal[...] | str
    if origin in (tuple, dict):
        return origin[tuple(part if part is ... else plain_type(part) for part in parts)]
    return hint


def describe_type(hint: Any) -> str:
    """A type in words, to follow 'is not'."""
    plain = plain_type(hint)
    words = {
        bool: 'True or False',
        int: 'a whole number',
        float: 'a number',
        str: 'text',
        tuple[int, int]: 'WxH',
        tuple[int, ...]: 'a list of whole numbers',
        tuple[str, ...]: 'a list of names',
        dict[str, float]: 'a set of name:weight',
    }
    return words.get(plain, '((w_min, w_max), (h_min, h_max))')


# --- Conversion ---------------------------------------------------------------------------------


def convert(value: Any, hint: Any) -> Any:
    """Converts `value`, native or as typed behind a command, to the type `hint`.

    `hint` holds no `Literal`, see `plain_type`. Raises one of `UNREADABLE`.
    """
    parts = typing.get_args(hint)
    if type(None) in parts:
        return None if value in NOTHING or value == '' else convert(value, parts[0])
    if hint is bool:
        return BOOLEANS[str(value).lower()]
    if hint is str:
        return _to_text(value)
    if isinstance(value, bool):
        raise TypeError(value)  # which Python takes for a whole number
    if hint in (int, float):
        return _to_number(value, hint)
    if isinstance(value, str):
        value = _parse_collection(value, hint)
    if typing.get_origin(hint) is dict:
        return _to_dict(value, *parts)
    return _to_tuple(value, parts)


def _to_text(value: Any) -> str:
    if type(value) not in (str, int):
        raise TypeError(value)
    return str(value)


def _to_number(value: Any, kind: type) -> int | float:
    # Not by way of a float, which holds whole numbers only up to 2^53.
    if kind is int and isinstance(value, str) and re.fullmatch(r'\s*[+-]?\d+\s*', value):
        value = int(value)
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    if kind is int and number != int(number):
        raise ValueError(value)
    if kind is float:
        return number
    return value if type(value) is int else int(number)


def _to_dict(value: Any, key_hint: Any, value_hint: Any) -> dict:
    converted = {}
    for key, item in dict(value).items():
        converted[convert(key, key_hint)] = convert(item, value_hint)
    return converted


def _to_tuple(value: Any, hints: tuple) -> tuple:
    any_length = hints[-1] is ...
    is_collection = isinstance(value, (list, tuple))
    if any_length:
        items = list(value) if is_collection else [value]
        hints = (hints[0],) * len(items)
    else:
        # A single number is a square: 512 is 512x512.
        items = list(value) if is_collection else [value] * len(hints)
    converted = []
    for item, hint in zip(items, hints, strict=True):
        if typing.get_args(hint) and not isinstance(item, (list, tuple)):
            raise TypeError(value)  # a pair of pairs is written in full
        converted.append(convert(item, hint))
    return tuple(converted)


def _parse_collection(text: str, hint: Any) -> Any:
    """Reads '1024x768' or '1024' (sizes), 'flip,rotate', '-20,-10', 'bce:30,iou:.5', or Python."""
    text = text.strip()
    if text.startswith(('(', '[', '{')):
        return literal_eval(text)
    if typing.get_origin(hint) is dict:
        return dict(item.split(':') for item in text.split(',') if item)
    # An x separates numbers, but is a letter of names.
    only_numbers = re.fullmatch(r'[\d,x\s+-]*', text)
    separators = r'[,x+]' if only_numbers else r'[,+]'
    pieces = [piece.strip() for piece in re.split(separators, text)]
    pieces = [piece for piece in pieces if piece]
    any_length = typing.get_args(hint)[-1] is ...
    if len(pieces) == 1 and not any_length:
        return pieces[0]
    return pieces


# --- Legal values -------------------------------------------------------------------------------


def complain(name: str, value: Any, rule: Rule, choices: tuple) -> str:
    """Says what is wrong with a value of the right type, and what is nearest; '' if it is legal."""
    is_collection = isinstance(value, (tuple, dict))
    items = list(value) if is_collection else [value]
    matches = bool(rule.pattern) and re.fullmatch(rule.pattern, str(value)) is not None

    if choices and not matches:
        illegal = [item for item in items if item not in choices]
        if illegal and illegal[0] in rule.refused:
            return f'{name}: no {illegal[0]!r}: {rule.refused[illegal[0]]}'
        if illegal:
            return f'{name}: {illegal[0]!r} is not legal; nearest: {_nearest(illegal, choices)}'
    if rule.pattern and not choices and not matches:
        return f'{name}: {value!r} is not legal; it must be {rule.form}'

    if rule.minimum is not None:
        numbers = value.values() if isinstance(value, dict) else items
        if any(number < rule.minimum for number in numbers):
            return f'{name}: {value!r} is too small; nearest: {rule.minimum}'
    return ''


def _nearest(illegal: list, choices: tuple) -> str:
    """The choices most like the illegal items, or all of them."""
    words = [str(choice) for choice in choices]
    near = []
    for item in illegal:
        near += difflib.get_close_matches(str(item), words, n=2)
    if near:
        return ' or '.join(repr(word) for word in near)
    return ', '.join(repr(choice) for choice in choices)
