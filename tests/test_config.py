"""Config: overrides, presets, errors that name the field, the command line."""

import ast
import dataclasses
import json
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import config
import fields
import published
from config import TASKS, Config, ConfigError, Task, main, task_record, test_sets, training_sets
from runtime import starting

FIELDS = [spec.name for spec in dataclasses.fields(Config)]


def error(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.from_overrides(overrides)
    return str(caught.value)


# --- Values that are legal ------------------------------------------------------------------------


@pytest.mark.parametrize(('text', 'expected'), [
    ('size=1024x768', (1024, 768)), ('size=512', (512, 512)), ('size=(640, 352)', (640, 352)),
    ('size=[640,352]', (640, 352)), ('size=640,352', (640, 352)), ('size=640 x 352', (640, 352)),
    ('dynamic_size=((256,2304),(256,1024))', ((256, 2304), (256, 1024))),
    ('dynamic_size=None', None),
    ('dynamic_size=', None), ('preproc_methods=flip,crop', ('flip', 'crop')),
    ('preproc_methods=flip+crop', ('flip', 'crop')),
    ('preproc_methods=flip', ('flip',)), ('preproc_methods=', ()), ('preproc_methods=[]', ()),
    ('lr_decay_epochs=-20,-10', (-20, -10)), ('lr_decay_epochs=-20', (-20,)),
    ('deform_kernels=3', (3,)),
    ('dec_ipt_levels=4,3,2,1', (4, 3, 2, 1)),
    ('lambdas_pix_last=bce:30,iou:.5', {'bce': 30., 'iou': .5}),
    ("lambdas_pix_last={'mae': 100}", {'mae': 100.}), ('compile=True', True), ('compile=1', True),
    ('compile=yes', True),
    ('compile=false', False), ('compile=0', False), ('batch_size=4', 4), ('batch_size=4.0', 4),
    ('lr=1e-4', 1e-4),
    ('lr=0', 0.), ('ema_decay=.999', .999), ('seed=1152921504606846977', 2**60 + 1),
    ('squeeze_block=ResBlk_x12', 'ResBlk_x12'),
    ('squeeze_block=ASPPDeformable_x1', 'ASPPDeformable_x1'),
    ('bb=timm/convnext_atto.d2_in1k', 'timm/convnext_atto.d2_in1k'),
    ('task=My set (v2.1) ä', 'My set (v2.1) ä'), ('weights=a=b.pth', 'a=b.pth'),
    ('training_set=A+B', 'A+B'),
])
def test_legal_override(text, expected):
    value = getattr(Config.from_overrides([text]), text.partition('=')[0])
    assert value == expected
    assert type(value) is type(expected)


def test_keywords_are_checked_as_overrides_are():
    cfg = Config(size=[512, 256], batch_size=2, compile=False, lambdas_pix_last={'bce': 1})
    overrides = ['size=512x256', 'batch_size=2', 'compile=no', 'lambdas_pix_last=bce:1']
    assert cfg == Config.from_overrides(overrides)


@pytest.mark.parametrize('order', [1, -1])
def test_single_weights_join_those_of_the_task(order):
    overrides = ['task=General', 'lambdas_pix_last.mae=7', 'lambdas_pix_last.cnt=3'][::order]
    assert Config.from_overrides(overrides).lambdas_pix_last == {
        **TASKS['General'].lambdas_pix_last, 'mae': 7., 'cnt': 3.}


def test_single_weights_join_those_given_whole():
    cfg = Config.from_overrides(['lambdas_pix_last=bce:1', 'lambdas_pix_last.mae=2'])
    assert cfg.lambdas_pix_last == {'bce': 1., 'mae': 2.}


def test_none_brings_a_saved_value_back_to_automatic():
    saved = Config(batch_size=16).as_dict()
    assert Config.from_overrides(['batch_size=4', 'lr=None'], saved).lr == Config(batch_size=4).lr
    assert Config.from_overrides(['batch_size=4'], saved).lr == Config(batch_size=16).lr


# --- Presets (issue: the facts of training) -------------------------------------------------------

GENERAL = {'bce': 30., 'iou': .5, 'mae': 100., 'ssim': 10.}
PLAIN = {'bce': 30., 'iou': .5, 'ssim': 10.}
PUBLISHED = {  # epochs, base lr, tail, save_last, save_step, size, weights, test sets
    'DIS5K': (500, 1e-4, 40, 50, 5, (1024, 1024), PLAIN, 'DIS-VD+DIS-TE1+DIS-TE2+DIS-TE3+DIS-TE4'),
    'COD': (150, 1e-5, 20, 50, 5, (1024, 1024), PLAIN, 'CHAMELEON+NC4K+TE-CAMO+TE-COD10K'),
    'HRSOD': (150, 1e-5, 20, 50, 5, (1024, 1024), PLAIN,
              'DAVIS-S+TE-HRSOD+TE-UHRSD+DUT-OMRON+TE-DUTS'),
    'General': (200, 1e-5, 20, 50, 5, (1024, 1024), GENERAL, 'DIS-VD+TE-P3M-500-NP'),
    'General-2K': (250, 1e-5, 20, 30, 2, (2560, 1440), GENERAL, 'DIS-VD+TE-P3M-500-NP'),
    'Matting': (150, 1e-5, 10, 50, 5, (1024, 1024), {'bce': 30., 'mae': 100., 'ssim': 10.},
                'TE-P3M-500-NP+TE-AM-2k'),
    'my own task': (150, 1e-5, 20, 50, 5, (1024, 1024), PLAIN, ''),
}


@pytest.mark.parametrize('task', PUBLISHED)
def test_preset_of_a_task(task):
    cfg = Config(task=task)
    found = (
        cfg.epochs,
        cfg.base_lr,
        cfg.tail_epochs,
        cfg.save_last,
        cfg.save_step,
        cfg.size,
        cfg.lambdas_pix_last,
        cfg.testsets,
    )
    assert found == PUBLISHED[task]
    assert cfg.bb == 'swin_v1_l'
    assert cfg.lr == pytest.approx(cfg.base_lr * (cfg.batch_size / 4) ** .5)


@pytest.mark.parametrize('task', [*TASKS, 'my own task'])
def test_nothing_stays_automatic(task):
    cfg = Config(task=task)
    assert [n for n in FIELDS if getattr(cfg, n) is None] == ['dynamic_size']


def test_a_task_decides_fields_and_how_its_results_are_read():
    own = {'tail_factors', 'columns', 'selection_metrics', 'averaged_sets'}
    assert {spec.name for spec in dataclasses.fields(Task)} - set(FIELDS) == own


def test_record_of_any_name():
    assert task_record('COD') is TASKS['COD']
    assert task_record('my own task') == Task()


@pytest.mark.parametrize('record', [*TASKS.values(), Task()])
def test_tables_of_a_task_show_everything_but_one_of_mae_and_mse(record):
    every = {*Task().columns, 'MSE'}
    assert len(set(record.columns)) == len(record.columns)
    assert every - set(record.columns) in ({'MSE'}, {'MAE'})


def test_automatic_values_follow_what_is_given():
    assert Config(batch_size=16).lr == pytest.approx(2e-4)
    assert Config(batch_size=16, base_lr=1e-5).lr == pytest.approx(2e-5)
    assert Config(batch_size=16, lr=3e-3).lr == 3e-3
    assert Config(epochs=10).tail_epochs == 5
    assert Config(bb='dino_v3_b').freeze_bb
    assert not Config(bb='dino_v3_b', freeze_bb=False).freeze_bb
    assert not Config().freeze_bb
    assert Config(num_workers=0).num_workers == 0


def test_the_published_preset_gives_way_to_what_is_given():
    def values(*overrides: str) -> tuple:
        cfg = Config.from_overrides(overrides)
        return cfg.batch_size, cfg.mixed_precision, cfg.compile

    assert values() == (4, 'no', False)
    assert values('preset=published') == (8, 'bf16', True)
    assert values('compile=no', 'preset=published', 'batch_size=2') == (2, 'bf16', False)
    assert Config(preset='published').lr == pytest.approx(1e-4 * 2 ** .5)


def test_synthetic_backgrounds_leave_flip_alone_unless_more_is_asked_for():
    assert Config().preproc_methods == ('flip', 'rotate', 'enhance', 'pepper')
    assert Config(background_color_synthesis=True).preproc_methods == ('flip',)
    more = Config(background_color_synthesis=True, preproc_methods=('flip', 'crop'))
    assert more.preproc_methods == ('flip', 'crop')


def test_weights_decay_under_adam_only_if_asked_for():
    assert Config(optimizer='AdamW').weight_decay == .01
    assert Config(optimizer='Adam').weight_decay == 0
    assert Config(optimizer='Adam', weight_decay=.1).weight_decay == .1


def test_configs_share_no_weights():
    one, other = Config(), Config()
    one.lambdas_pix_last['bce'] = 0
    assert other.lambdas_pix_last['bce'] == TASKS['DIS5K'].lambdas_pix_last['bce'] == 30


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(('text', 'words'), [
    ('btach_size=4', ['btach_size', 'batch_size']), ('backbone=x', ['backbone', 'no such field']),
    ('lambdas_pix_lst.mae=1', ['lambdas_pix_lst', 'lambdas_pix_last']), ('size.w=3', ['size.w']),
    ('compile', ['compile', 'key=value']), ('compile=maybe', ['compile', 'True or False']),
    ('batch_size=four', ['batch_size', 'whole number']),
    ('batch_size=2.5', ['batch_size', 'whole number']),
    ('batch_size=0', ['batch_size', 'nearest: 1']), ('batch_size=', ['batch_size']),
    ('seed=-1', ['seed', 'nearest: 0']),
    ('lr=nan', ['lr', 'number']), ('lr=inf', ['lr', 'number']), ('lr=1e999', ['lr']),
    ('lr=-1', ['lr', 'nearest: 0']),
    ('size=1000x1024', ['size', '(992, 1024)']), ('size=16', ['size', '(32, 32)']),
    ('size=0', ['size', '32']),
    ('size=1x2x3', ['size', 'WxH']), ('size=', ['size', 'WxH']), ('size=big', ['size', 'WxH']),
    ('size=(' + '9' * 400 + ',32)', ['size']), ('size=' + '(' * 5000, ['size']),
    ('dynamic_size=256x1024', ['dynamic_size', '(w_min, w_max)']),
    ('dynamic_size=((64,100),(256,256))', ['dynamic_size', 'multiples of 32', '96']),
    ('dynamic_size=((512,256),(256,512))', ['dynamic_size', 'minimum']),
    ('bb=swin_v1_xl', ['bb', "'swin_v1_l'"]), ('bb=swin_large', ['bb', 'swin_v1_']),
    ('bb=timm/', ['bb']),
    ('bb=timm/a b', ['bb']), ('cxt_num=4', ['cxt_num', '3']),
    ('mul_scl_ipt=concat', ['mul_scl_ipt', "'cat'"]),
    ('squeeze_block=BasicDecBlk', ['squeeze_block', "'BasicDecBlk_x1'"]),
    ('squeeze_block=ResBlk_x0', ['squeeze_block']),
    ('squeeze_block=', ['squeeze_block', 'cxt_num', 'exclude']),
    ('dec_att=aspp', ['dec_att', "'ASPP'"]),
    ('dec_blk=ResBlock', ['dec_blk', "'ResBlk'"]),
    ('preproc_methods=flip,rotat', ['preproc_methods', "'rotate'"]),
    ('testsets=A+..', ['testsets']), ('training_set=..+A', ['training_set']),
    ('validation_set=.', ['validation_set']),
    ('task=a\0b', ['task']),
    ('deform_kernels=2', ['deform_kernels', 'odd']),
    ('deform_kernels=', ['deform_kernels', '1 to 9']),
    ('dec_ipt_levels=6', ['dec_ipt_levels', '6']),
    ('lambdas_pix_last.bec=1', ['lambdas_pix_last', 'bec', "'bce'"]),
    ('lambdas_pix_last.bce=x', ['lambdas_pix_last']),
    ('lambdas_pix_last.bce=-1', ['lambdas_pix_last', 'negative']),
    ('lambdas_pix_last=bce', ['lambdas_pix_last', 'name:weight']),
    ('ema_decay=1', ['ema_decay', '0.999']),
    ('validation_share=1', ['validation_share']),
    ('mixed_precision=fp32', ['mixed_precision', "'fp16'"]),
    ('task=../secret', ['task']), ('task=..', ['task']), ('task=', ['task']),
    ('training_set=A++B', ['training_set']),
    ('testsets=../x', ['testsets']), ('tail_epochs=1000', ['tail_epochs', 'epochs=500']),
    ('device=gpu', ['device', "'cpu'"]), ('save_every=10s', ['save_every', '200', '10min']),
    ('save_every=-1', ['save_every']), ('early_stop=3', ['early_stop', 'val_step=1']),
    ('sharding=fsdp2', ['sharding', "'fsdp'"]),
])
def test_one_error_names_field_and_nearest(text, words):
    message = error(text)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize('pair', [
    ('mixed_precision=fp16', 'device=cpu'), ('load_all=True', 'dynamic_size=((256,512),(256,512))'),
    ('squeeze_block=', 'cxt_num=1'), ('bb_weights=hub', 'bb=swin_v1_t'),
    ('sharding=fsdp', 'compile=True'), ('sharding=fsdp', 'channels_last=True'),
])
def test_values_that_exclude_each_other(pair):
    message = error(*pair)
    assert all(text.split('=')[0] in message for text in pair)
    assert 'exclude each other' in message


def test_all_errors_at_once():
    assert error('btach_size=1', 'colour=red', 'compile').count('\n') == 2
    lines = error('size=x', 'bb=y', 'lr=z').splitlines()
    assert [line.split(':')[0] for line in lines] == ['size', 'bb', 'lr']
    assert error('size=30', 'ema_decay=1', 'deform_kernels=2').count('\n') == 2


@pytest.mark.parametrize('keyword', [
    {'bb': 3},
    {'compile': 'on'},
    {'batch_size': True},
    {'size': 'x'},
    {'size': None, 'lr': 'a'},
    {'task': None},
    {'lambdas_pix_last': 5},
    {'deform_kernels': {1: 2}},
    {'lr': 10**400},
    {'dynamic_size': (256, 512)},
    {'preproc_methods': ('flip', 3)},
])
def test_wrong_types_as_keywords(keyword):
    with pytest.raises(ConfigError, match=next(reversed(keyword))):
        Config(**keyword)


ODD_VALUES = [
    '', 'None', 'True', '[]', '{}', '()', '((1,2),(3,4))', '1,2', 'a:b', 'bce:1', '32x64',
    "{'bce': None}", '[[]]', '0x', '{1: 2}', '(' * 300, '-', '1e5', '[1,', "{'a': {}}", '\x00',
    '9' * 5000, '[' + '9' * 5000 + ']',
]
VALUES = st.one_of(
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(ODD_VALUES),
)
ODD_NAMES = [*FIELDS, 'lambdas_pix_last.bce', 'lambdas_pix_last.', 'x']
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(max_size=5))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES).map('='.join) | st.text(max_size=10), max_size=4))
def test_any_overrides_give_a_config_or_one_error(overrides):
    with suppress(ConfigError):
        cfg = Config.from_overrides(overrides)
        assert Config.from_overrides([], cfg.as_dict()) == cfg


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


def containers(inner: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)


JSON = st.recursive(SCALARS, containers, max_leaves=5)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_json_gives_a_config_or_one_error(values):
    with suppress(ConfigError):
        Config(**values)


# --- Saved configs --------------------------------------------------------------------------------


@pytest.mark.parametrize('overrides', [
    [], ['task=General-2K', 'dynamic_size=((256,512),(256,768))'],
    ['task=Demo', 'compile=1', 'lambdas_pix_last.cnt=3'],
    ['bb=timm/resnet18', 'squeeze_block=', 'cxt_num=0', 'preproc_methods=',
     'lr_decay_epochs=-10,-5'],
])
def test_round_trip(tmp_path, overrides):
    cfg = Config.from_overrides(overrides)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(cfg.as_dict()), encoding='utf-8')
    assert Config.load(path) == cfg == Config(**cfg.as_dict()) == pickle.loads(pickle.dumps(cfg))
    assert Config.load(path, ['seed=3']) == dataclasses.replace(cfg, seed=3)


@pytest.mark.parametrize('content', [
    b'{', b'', b'[1]', b'"text"', b'\xff\xfe\x00', b'null', b'{"colour": 1}',
])
def test_files_that_are_no_config(tmp_path, content):
    path = tmp_path / 'config.json'
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        Config.load(path)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().task = 'COD'


# --- Sets of a task -------------------------------------------------------------------------------


def make_sets(root: Path, task: str, *names: str) -> None:
    for name in names:
        (root / task / name / 'im').mkdir(parents=True)
    (root / task / 'notes').mkdir()
    (root / task / 'readme.txt').write_text('no set')


def test_a_folder_of_ones_own_is_split_by_prefix(tmp_path):
    make_sets(tmp_path, 'cracks', 'TR-a', 'TR-b.2', 'TE-c', 'other')
    cfg = Config(task='cracks', data_root=str(tmp_path))
    assert training_sets(cfg) == ['TR-a', 'TR-b.2']
    assert test_sets(cfg) == ['TE-c']
    cfg = Config(task='cracks', data_root=str(tmp_path), training_set='other', testsets='TR-a+TE-c')
    assert (training_sets(cfg), test_sets(cfg)) == (['other'], ['TR-a', 'TE-c'])


def test_a_folder_without_prefixes_is_all_training(tmp_path):
    make_sets(tmp_path, 'cracks', 'a', 'TE-c')
    assert training_sets(Config(task='cracks', data_root=str(tmp_path))) == ['a']


def test_general_trains_on_all_but_the_test_sets(tmp_path):
    make_sets(tmp_path, 'General', 'DIS-TR', 'DIS-VD', 'TE-P3M-500-NP', 'TR-P3M', 'TE-HRSOD')
    cfg = Config(task='General', data_root=str(tmp_path))
    assert training_sets(cfg) == ['DIS-TR', 'TE-HRSOD', 'TR-P3M']
    assert test_sets(cfg) == ['DIS-VD', 'TE-P3M-500-NP']


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r'task.*DIS5\b.*did you mean task=DIS5K'):
        training_sets(Config(task='DIS5', data_root=str(tmp_path)))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match=r'training_set.*empty'):
        training_sets(Config(task='empty', data_root=str(tmp_path)))


# --- The command line and the module itself -------------------------------------------------------


@pytest.mark.parametrize(('arguments', 'expected'), [
    (['--print', 'task'], 'DIS5K'), (['--print_task', 'task=COD'], 'COD'),
    (['task=COD', '--print', 'epochs'], '150'),
    (['--print_testsets', 'task=COD'], 'CHAMELEON+NC4K+TE-CAMO+TE-COD10K'),
    (['--print', 'training_set'], 'DIS-TR'),
    (['--print', 'batch_size', 'task=Demo'], '8'), (['--print', 'resume'], ''),
])
def test_print(capsys, arguments, expected):
    main(arguments)
    assert capsys.readouterr().out == expected + '\n'


def test_print_everything(capsys):
    main(['batch_size=3'])
    out = capsys.readouterr().out
    assert 'batch_size = 3\n' in out
    assert all(f'{name} = ' in out for name in FIELDS)


@pytest.mark.parametrize('arguments', [
    ['--print'],
    ['--print', 'tsak'],
    ['--prnt', 'task'],
    ['task'],
])
def test_print_errors(arguments):
    with pytest.raises(ConfigError):
        main(arguments)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """As a script, without site-packages."""
    command = [sys.executable, '-S', config.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_script():
    good, bad, help_text = run('--print_testsets'), run('--print', 'bb', 'tsak=COD'), run('--help')
    assert (good.returncode, good.stdout, good.stderr) == (0, TASKS['DIS5K'].testsets + '\n', '')
    assert bad.returncode != 0
    assert bad.stdout == ''
    assert 'did you mean task' in bad.stderr
    assert help_text.returncode == 0
    assert 'key=value' in help_text.stdout


def test_standard_library_only():
    modules = (config, fields, published, starting)
    sources = [Path(module.__file__).read_text(encoding='utf-8') for module in modules]
    tree = ast.parse('\n'.join(sources))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module if node.module == 'runtime.starting'
                         else node.module.split('.')[0])
    assert imported - sys.stdlib_module_names <= {'fields', 'published', 'runtime.starting'}


def test_importing_touches_no_file():
    program = '''
import sys; sys.dont_write_bytecode = True
import dataclasses, difflib, json, math, re, typing, ast, collections.abc, pathlib, encodings.idna
opened = []
def note(event, args):
    if event == 'open':
        opened.append(str(args[0]))
sys.addaudithook(note)
import config
print([path for path in opened if not path.endswith(('.py', '.pyc'))])
'''
    folder = Path(config.__file__).parent
    command = [sys.executable, '-c', program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert result.stdout.strip() == '[]'


def test_every_field_says_what_it_means():
    assert all(fields.rule_of(spec).meaning for spec in dataclasses.fields(Config))
