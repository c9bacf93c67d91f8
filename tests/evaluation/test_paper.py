"""The tables and figures of a paper: names, orders, categories, fonts, and what is drawn."""

import math
import warnings

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation import figures, lines, panels, paper_figures, style
from evaluation.categories import read_grouping
from evaluation.display import (
    choose_methods,
    read_methods_file,
    show_all,
    show_listed,
)
from evaluation.formats import clean_name
from evaluation.paper_figures import Size
from evaluation.paper_tables import by_category, pair_tests
from evaluation.significance import PairTest

METHODS_FILE = """
[[method]]
folder = "run--epoch_10"
name = "Ours"
color = "#d55e00"
ours = true

[[method]]
folder = '_U-Net$'

[[run]]
run = "run"
name = "Ours"
"""
DIS5K = '1#Accessories#1#Bag#2339_o'


@pytest.fixture
def methods_file(tmp_path):
    """Writes a methods file; returns its path."""
    def write(text):
        path = tmp_path / 'methods.toml'
        path.write_text(text, encoding='utf-8')
        return str(path)

    return write


class TestMethodsFile:
    def test_order_names_and_lines(self, methods_file):
        file = read_methods_file(methods_file(METHODS_FILE))
        ours, other = show_listed(file, ['_U-Net$', 'run--epoch_10'])
        assert (ours.folder, ours.name, ours.ours) == ('run--epoch_10', 'Ours', True)
        assert ours.line.color == '#d55e00'
        assert ours.line.width > other.line.width
        assert (other.name, other.ours) == ('_U-Net$', False)
        assert [run.name for run in show_listed(file, ['run'], 'run')] == ['Ours']

    def test_colours_of_the_file_are_taken_once(self, methods_file):
        entries = [f'[[method]]\nfolder = "m{i}"\n' for i in range(40)]
        entries[3] += f'color = "{lines.COLORS[0]}"\n'
        file = read_methods_file(methods_file('\n'.join(entries)))
        shown = show_listed(file, [f'm{i}' for i in range(40)])
        colors = [method.line.color for method in shown]
        assert colors.count(lines.COLORS[0]) == 1
        assert colors[:3] == list(lines.COLORS[1:4])

    def test_every_problem_is_named(self, methods_file):
        text = (
            'order = 3\n'
            '[[method]]\nname = "x"\n'
            '[[method]]\nfolder = "a"\ncolour = "red"\n'
            '[[method]]\nfolder = "a"\ncolor = "reddish"\nours = "yes"\n'
            '[[run]]\nrun = "r"\nname = "s"\n[[run]]\nrun = "s"\n')
        with pytest.raises(ValueError, match=r'methods\.toml') as error:
            read_methods_file(methods_file(text))
        for words in ("unknown 'order'", 'method 1 has no folder', "unknown 'colour'",
                      "no colour: 'reddish'", "ours of method 3 (a) is 'yes'", 'a is listed twice',
                      "2 of the runs are shown as 's'"):
            assert words in str(error.value)

    @pytest.mark.parametrize('text', ['[[method', 'method = 3', '[method]\nfolder = "a"'])
    def test_other_files(self, methods_file, text):
        with pytest.raises(ValueError, match=r'methods\.toml'):
            read_methods_file(methods_file(text))

    def test_missing_and_unlisted_methods(self, methods_file):
        file = read_methods_file(methods_file(METHODS_FILE))
        with pytest.raises(ValueError, match=r'no method _U-Net\$; there are run--epoch_10, z'):
            show_listed(file, ['run--epoch_10', 'z'])
        with pytest.raises(ValueError, match=r'not listed: y, z; add .* only_listed = true'):
            show_listed(file, ['run--epoch_10', '_U-Net$', 'y', 'z'])
        alone = read_methods_file(methods_file('only_listed = true\n' + METHODS_FILE))
        assert len(show_listed(alone, ['run--epoch_10', '_U-Net$', 'y', 'z'])) == 2

    def test_a_file_without_methods_shows_all(self, methods_file):
        file = read_methods_file(methods_file('[[run]]\nrun = "r"\n'))
        assert [method.name for method in show_listed(file, ['b', 'a'])] == ['b', 'a']

    def test_chosen_by_folder(self):
        assert [found.name for found in choose_methods('b+a', ['a', 'b', 'c'])] == ['b', 'a']
        with pytest.raises(ValueError, match='no scores of x, y; there are a'):
            choose_methods('x+a+y', ['a'])


def test_names_that_are_no_text():
    assert clean_name('a\nb\t c') == 'a b c'
    assert clean_name('x\udcff') == r'x\udcff'
    assert [method.name for method in show_all(['a\x07'])] == ['a']


class TestCategories:
    images = [('A', 'im 1.é'), ('A', 'x'), ('B', 'x')]  # noqa: RUF012

    def grouped(self, tmp_path, text, name='kind.csv'):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return read_grouping(str(path), self.images)

    def test_names_of_dis5k(self):
        images = [('DIS-VD', DIS5K), ('DIS-TE1', '2#Aircraft#5#Kite#1_o')]
        assert read_grouping('group', images).members == {
            'Accessories': [images[0]], 'Aircraft': [images[1]]}
        assert list(read_grouping('class', images).members) == ['Bag', 'Kite']
        with pytest.raises(ValueError, match=r'these names carry none.*A/im 1.é, A/x'):
            read_grouping('class', [*images, *self.images])

    def test_categories(self, tmp_path):
        found = self.grouped(tmp_path, 'name,category\nim 1.é.png,low\nA/x,high\nB/x,low\nnew,z\n')
        assert found.name == 'kind'
        assert found.members == {'high': [('A', 'x')], 'low': [('A', 'im 1.é'), ('B', 'x')]}

    def test_several_and_none(self, tmp_path):
        found = self.grouped(tmp_path, 'name,kind\nx.jpg,a\nx.jpg,b\nx.jpg,b\nim 1.é,\n')
        assert found.members == {'a': [('A', 'x'), ('B', 'x')], 'b': [('A', 'x'), ('B', 'x')]}

    def test_attributes(self, tmp_path):
        found = self.grouped(tmp_path, 'name,small,dark,never\nim 1.é,1,0,0\nx,yes,TRUE,\n')
        assert list(found.members) == ['small', 'dark']
        assert found.members['dark'] == [('A', 'x'), ('B', 'x')]

    def test_semicolons_and_numbers_of_a_spreadsheet(self, tmp_path):
        """As spreadsheets write where the comma is decimal, and pandas where a cell was empty."""
        found = self.grouped(tmp_path, 'name;small;dark\nim 1.é;1.0;0\nx;0.0;1\n')
        assert found.members == {'small': [('A', 'im 1.é')], 'dark': [('A', 'x'), ('B', 'x')]}
        found = self.grouped(tmp_path, 'name\tkind\nim 1.é\ta, b\nx\tc\n')
        assert list(found.members) == ['a, b', 'c']

    @pytest.mark.parametrize(('text', 'words'), [
        ('name\nx\n', 'no columns name,category'),
        ('', 'no columns name,category'),
        ('name,kind\nx,a\n', 'no line of A/im 1.é; write `name,`'),
        ('name,kind\nx,a,b\nim 1.é\n', 'line 2 has 3 columns, not 2, line 3 has 1'),
        ('name,a,b\nx,1,2\n', 'line 2: 2: neither 0 nor 1'),
    ])
    def test_errors(self, tmp_path, text, words):
        with pytest.raises(ValueError, match=words):
            self.grouped(tmp_path, text)

    def test_no_file(self):
        with pytest.raises(ValueError, match=r'no such file; write group, class'):
            read_grouping('nowhere.csv', self.images)


def test_table_by_category():
    shown = show_all(['x', 'y'])
    results = {'low': {'x': {'mae': .1}, 'y': {'mae': .2}}, 'high': {'x': {}, 'y': {'mae': .3}}}
    table = by_category('T', 'Kind', 'mae', results, {'low': 3, 'high': 1}, shown)
    assert [(column.head, column.group) for column in table.columns] == [
        ('Kind', ''), ('Images', ''), ('x', 'MAE'), ('y', 'MAE')]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ['low', '3', '.100', '.200'], ['high', '1', '-', '.300']]
    assert [cell.place for cell in table.rows[0]] == [None, None, 0, 1]


def test_table_of_pairs():
    tests = {'A': [PairTest('x', 'y', .01, math.nan, math.nan, 2e-5, .0421, .5)]}
    [row] = pair_tests('sm', tests, show_all(['x', 'y'])).rows
    assert [cell.text for cell in row] == [
        'A', 'x', 'y', '.0100', '-', '-', '< .001', '.042', '0.50']


# --- Figures --------------------------------------------------------------------------------------


ODD = ('_hidden', '$a$ and $b$', 'a^{', '\\frac', '100%')


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are encoded."""
    found = []
    encode = paper_figures.encode

    def keep(figure, suffixes=('png',)):
        found.append(figure)
        return encode(figure, suffixes)

    monkeypatch.setattr(paper_figures, 'encode', keep)
    monkeypatch.setattr(panels, 'encode', keep)
    return found


def curves_of(names):
    rising = np.linspace(0, 1, 256)
    return {name: {'recall': rising, 'precision': 1 - rising / 2, 'fm': rising, 'em': rising}
            for name in names}


@pytest.mark.parametrize('number', [5, 30])
def test_curves_show_every_name(drawn, number):
    names = [*ODD, *(f'm{i}' for i in range(number - len(ODD)))]
    shown = show_all(names)
    files = paper_figures.curves('pr', curves_of(names), shown, Size())
    assert files['png'].startswith(b'\x89PNG')
    [figure] = drawn
    [axes] = figure.axes
    legend = axes.get_legend() or figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == names
    assert not any(text.get_parse_math() for text in legend.get_texts())
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(axes.lines) == number
    assert len(looks) == min(number, len(lines.COLORS) * len(lines.DASHES))


def test_curves_of_the_report_show_every_name():
    """More methods than there are colours and dashes too."""
    names = [*ODD, 'x\udcff', 'a\nb', *(f'm{i}' for i in range(40))]
    svg = figures.curve_panels(curves_of(names), show_all(names)).decode()
    assert svg.count('id="line2d_') > 3 * len(names)


def test_size_of_figures(drawn):
    size = Size(column=90, height=70)
    paper_figures.curves('f', curves_of('ab'), show_all('ab'), size)
    assert drawn[0].get_size_inches() == pytest.approx([90 / 25.4, 70 / 25.4])


def test_the_same_figure_is_the_same_bytes():
    first, second = (
        paper_figures.curves('e', curves_of('ab'), show_all('ab'), Size()) for _ in range(2))
    assert first == second
    assert set(first) == {'pdf', 'png'}
    assert b'/Type3' not in first['pdf']


@pytest.mark.parametrize(('number', 'score', 'chart', 'expected'), [
    (5, 'sm', 'auto', 'polar'),
    (5, 'mae', 'auto', 'rectilinear'),
    (2, 'sm', 'auto', 'rectilinear'),
    (20, 'sm', 'auto', 'rectilinear'),
    (5, 'sm', 'bar', 'rectilinear'),
    (5, 'mae', 'radar', 'polar'),
])
def test_charts_of_categories(drawn, number, score, chart, expected):
    results = {f'$c_{i}$': {'_x': {score: .5 + i / 100}, 'y': {}} for i in range(number)}
    paper_figures.categories(score, results, show_all(['_x', 'y']), Size(), chart)
    [axes] = drawn[0].axes
    assert axes.name == expected
    assert legend_texts(drawn[0]) == ['_x', 'y']
    labels = axes.get_xticklabels() if expected == 'polar' else axes.get_yticklabels()
    assert [label.get_text() for label in labels] == list(results)


def test_many_bars_become_dots(drawn):
    """40 methods by 20 categories would be bars of two metres."""
    names = [f'm{i}' for i in range(40)]
    results = {str(i): {name: {'sm': .5} for name in names} for i in range(20)}
    paper_figures.categories('sm', results, show_all(names), Size())
    [figure] = drawn
    assert figure.get_size_inches()[1] * 25.4 < 200
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == 40


def test_scores_over_epochs(drawn):
    runs = {'_r': {'A': [(5, .1), (10, .3)], 'B': [(5, .3), (10, .2)]}}
    paper_figures.epochs('sm', runs, show_all(['_r']), Size())
    line, best = drawn[0].axes[0].lines
    assert line.get_ydata() == pytest.approx([.2, .25])
    assert best.get_xdata() == [10]


def test_missing_characters_are_named_once():
    """A character that no font has: Unicode leaves it to private use."""
    name = 'a\U000f1234'
    style._fonts_with.cache_clear()

    def draw():
        with style.drawing([name]):
            figure = Figure((1, 1))
            figure.text(0, 0, name)
            paper_figures.encode(figure)

    with pytest.warns(UserWarning, match='no installed font has') as caught:
        draw()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw()


def test_fonts_of_chinese():
    style._fonts_with.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        families = style._further_fonts('对比方法 abc')
        again = style._further_fonts('abc é ↑')
    assert again == ()
    assert families or 'install one' in str(caught[0].message)


# --- Panels ---------------------------------------------------------------------------------------


def test_requests_of_panels():
    images = [('A', 'x:1,2'), ('A', 'y'), ('B', 'y')]
    found = panels.parse_requests(['x:1,2', 'A/y:1,2,30,40', 'B/y'], images)
    assert [request.image for request in found] == images
    assert [request.zoom for request in found] == [None, (1, 2, 30, 40), None]
    with pytest.raises(ValueError, match='y is in A, B: write SET/y; z is no scored image'):
        panels.parse_requests(['y', 'z'], images)


def test_the_part_where_methods_differ():
    mask = np.zeros((100, 200), np.uint8)
    wrong = mask.copy()
    wrong[60:70, 150:160] = 255
    x, y, width, height = panels.most_different(mask, [mask, wrong])
    assert width == height == 24
    assert x <= 150
    assert y <= 60
    assert x + width >= 160
    assert y + height >= 70


@pytest.mark.parametrize(('zoom', 'corner'), [
    ((0, 0, 10, 10), (-20, -20)), ((80, 80, 10, 10), (19, 19)), ((80, 0, 10, 10), (-20, 19))])
def test_inset_lies_in_the_other_corner(zoom, corner):
    panel = np.full((100, 100, 3), 50, np.uint8)
    x, y, width, height = zoom
    panel[y:y + height, x:x + width] = 200
    free = panels.free_corner(np.zeros((100, 100), np.uint8), zoom)
    drawn = panels.enlarged(panel, zoom, free, width=20, height=20)
    assert drawn.shape == (236, 236, 3)  # 20 mm at 300 dots an inch
    row, column = (2 * value for value in corner)
    assert (drawn[row, column] == 200).all()
    plain = panels.enlarged(panel, None, None, width=20, height=20)
    assert (plain[row, column] == 50).all()


@pytest.mark.parametrize(('objects', 'free'), [
    ([(50, 50)], (True, False)),  # across from the part lies the object
    ([(50, 50), (50, 0)], (False, True)),
    ([(50, 50), (50, 0), (0, 50)], (False, True)),  # never over the part itself
])
def test_inset_hides_least_of_the_object(objects, free):
    mask = np.zeros((100, 100), np.uint8)
    for x, y in objects:
        mask[y:y + 40, x:x + 40] = 255
    mask[0:50, 55:60] //= 2
    mask[55:60, 0:50] //= 4
    assert panels.free_corner(mask, (10, 10, 30, 30)) == free


def test_panels_of_files(tmp_path, drawn):
    shape = (60, 80)
    mask = cv2.circle(np.zeros(shape, np.uint8), (40, 30), 20, 255, -1)
    for folder in ('gt/A/gt', 'gt/A/im', 'pred/_m$/A', 'pred/n/A'):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'gt/A/gt/x.png'), mask)
    cv2.imwrite(str(tmp_path / 'gt/A/im/x.jpg'), np.dstack([mask] * 3))
    cv2.imwrite(str(tmp_path / 'pred/_m$/A/x.png'), mask // 2)
    cv2.imwrite(str(tmp_path / 'pred/n/A/x.png'), cv2.resize(mask, (40, 30)))
    sets = {'A': {'gt_root': str(tmp_path / 'gt'), 'pred_root': str(tmp_path / 'pred')}}
    request = panels.Request(('A', 'x'), None)
    strip = panels.read_strip(request, sets, ['_m$', 'n'], zooms=True)
    assert strip.image.shape == (60, 80, 3)
    assert {found.shape for found in strip.predictions.values()} == {shape}
    assert strip.zoom is not None
    panels.panel_figure([strip, strip], show_all(['_m$', 'n']), Size())
    [figure] = drawn
    assert len(figure.axes) == 2 * 4
    texts = [text.get_text() for text in figure.texts]
    assert texts == ['Image', 'Ground truth', '_m$', 'n']

    outside = panels.Request(('A', 'x'), (70, 0, 20, 20))
    with pytest.raises(ValueError, match='not inside 80x60'):
        panels.read_strip(outside, sets, ['n'], zooms=True)
    with pytest.raises(ValueError, match='A/x: no longer there, or not as it was scored: gone'):
        panels.read_strip(request, sets, ['gone'], zooms=True)
