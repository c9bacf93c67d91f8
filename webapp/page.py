"""The page's layout and what its controls do, in Gradio, and its HTTP API."""

import html
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from starlette.middleware import Middleware

from inference.compose import OUTPUTS, Style
from inference.images import write_bytes
from utils import read_image
from webapp.gate import Gate
from webapp.jobs import (
    Cut,
    Limits,
    Report,
    Result,
    Weights,
    convert,
    is_video,
    pack,
    parse_color,
    refusal,
    render,
    segment,
)
from webapp.storage import Storage

FOLDER = Path(__file__).parent
BACKGROUNDS = [('Transparent', 'cutout'), ('Colour', 'color'), ('Picture', 'picture'), ('Blurred', 'blur'),
               ('Mask only', 'mask')]
EDGES = [('As photographed', ''), ('Clean, fast', 'blur-fusion'), ('Clean, thorough', 'multi-level')]
WHITE = '#ffffff'
DROP = {'upload_text.drop_file': 'Drop or paste here', 'upload_text.click_to_upload': 'choose files'}
FILE_TYPES = ['image', 'video', '.heic', '.heif', '.mkv']  # the last are unknown to some browsers


class Work(NamedTuple):
    """A visitor's pictures: what the network made of them, their results, and a line for each that was refused."""

    cuts: Sequence[Cut] = ()
    results: Sequence[Result] = ()
    refused: Sequence[str] = ()


class Page:
    """The page: `weights` by the names that visitors see, an `example` picture, JPEG, and a `notice`, or ''."""

    def __init__(self, weights: Mapping[str, Weights], storage: Storage, limits: Limits, example: bytes,
                 notice: str = '') -> None:
        self.weights, self.storage, self.limits = weights, storage, limits
        self.example, self.notice = example, notice

    # --- Layout -------------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """The whole page, ready to be launched (see `launch`)."""
        with gr.Blocks(title='BiRefNet: cut out pictures', analytics_enabled=False) as page:
            gr.HTML('<h1>Cut it out</h1><p>Pictures and videos in, the object alone out: down to hair, spokes and '
                    'wires.</p>', elem_id='head')
            if self.notice:
                gr.HTML(f'<p>{html.escape(self.notice)}</p>', elem_id='notice')
            with gr.Row(equal_height=False, elem_id='columns'):
                with gr.Column(scale=4, min_width=300):
                    inputs = self._inputs()
                with gr.Column(scale=7, min_width=300):
                    outputs = self._outputs()
            self._connect(inputs, outputs)
            self._add_api()
            page.unload(self.leave)
        page.queue(max_size=self.limits.queue, default_concurrency_limit=1)
        return page

    def _limits_in_words(self) -> str:
        limits = self.limits
        return (f'Up to {limits.files} pictures at once, {limits.pixels / 1e6:g} megapixels and {limits.file_mb} MB '
                'each. Files are deleted when you leave.')

    def _inputs(self) -> dict[str, Any]:
        files = gr.File(file_count='multiple', file_types=FILE_TYPES, height=190, elem_id='files',
                        label='Pictures, or a video')
        gr.HTML(f'<p>{self._limits_in_words()}</p>', elem_id='limits')
        example = gr.Button('No picture at hand? Try an example.', size='sm', variant='secondary', elem_id='example')
        background = gr.Radio(BACKGROUNDS, value='cutout', label='Background', elem_id='background')
        color = gr.ColorPicker(WHITE, label='Colour', visible=False, elem_id='color')
        backdrop = gr.File(file_types=['image'], height=120, visible=False, elem_id='backdrop',
                           label='The picture behind the object')
        with gr.Accordion('More: weights, resolution, edges', open=False, elem_id='more'):
            weights = gr.Dropdown(list(self.weights), value=next(iter(self.weights)), label='Weights',
                                  elem_id='weights')
            resolution = gr.Dropdown(
                [('As trained', ''), '512', '1024', '1024x1024', '2048', '2048x2048', ('The picture’s own', 'native')],
                value='', allow_custom_value=True, label='Resolution', elem_id='resolution',
                info='Of the network: WxH, by multiples of 32, or a long side in pixels')
            edges = gr.Radio(EDGES, value='', label='Colour of soft edges', elem_id='edges',
                             info='Clean edges lose the old background’s colour')
        cut = gr.Button('Cut out', variant='primary', size='lg', elem_id='cut')
        return {'files': files, 'example': example, 'background': background, 'color': color, 'backdrop': backdrop,
                'weights': weights, 'resolution': resolution, 'edges': edges, 'cut': cut}

    def _outputs(self) -> dict[str, Any]:
        work = gr.State(Work())
        empty = gr.HTML('<div class="box"><p>The result appears here</p></div>', elem_id='empty')
        with gr.Column(visible=False, elem_id='pictures') as pictures:
            with gr.Tabs():
                with gr.Tab('Before and after'):
                    compare = gr.ImageSlider(type='filepath', show_label=False, interactive=False, max_height=560,
                                             elem_id='compare', buttons=['fullscreen'])
                with gr.Tab('Mask'):
                    mask = gr.Image(type='filepath', show_label=False, interactive=False, height=560, elem_id='mask',
                                    buttons=['download', 'fullscreen'], alt_text='The mask: white is the object')
            thumbs = gr.Gallery(label='Results', show_label=False, columns=6, fit_columns=False, height=None,
                                allow_preview=False, object_fit='contain', interactive=False, visible=False, buttons=[],
                                elem_id='thumbs')
            with gr.Row():
                one = gr.DownloadButton('Download', variant='primary', elem_id='one')
                everything = gr.DownloadButton('Download all (zip)', visible=False, elem_id='all')
        with gr.Column(visible=False, elem_id='film') as film:
            video = gr.Video(show_label=False, interactive=False, buttons=[], elem_id='video')
            one_video = gr.DownloadButton('Download', variant='primary', elem_id='one-video')
        status = gr.Markdown(elem_id='status')
        return {'work': work, 'empty': empty, 'pictures': pictures, 'compare': compare, 'mask': mask, 'thumbs': thumbs,
                'one': one, 'all': everything, 'film': film, 'video': video, 'one_video': one_video, 'status': status}

    def _connect(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        private: dict[str, Any] = {'api_visibility': 'private', 'concurrency_id': 'network'}
        style = [inputs[name] for name in ('background', 'color', 'backdrop', 'edges')]
        settings = [outputs['work'], inputs['files'], inputs['weights'], inputs['resolution'], *style]
        shown = list(outputs.values())
        progress_on = [outputs['empty'], outputs['compare'], outputs['video']]
        inputs['files'].upload(self.note_uploads, inputs['files'], None, queue=False, api_visibility='private')
        inputs['cut'].click(self.cut, settings, shown, show_progress_on=progress_on, scroll_to_output=True, **private)
        inputs['example'].click(self.take_example, None, inputs['files'], queue=False,
                                api_visibility='private').then(
            self.cut, settings, shown, show_progress_on=progress_on, scroll_to_output=True, **private)
        inputs['background'].input(
            lambda background: (gr.update(visible=background == 'color'), gr.update(visible=background == 'picture')),
            inputs['background'], [inputs['color'], inputs['backdrop']], queue=False, show_progress='hidden',
            api_visibility='private')
        gr.on([inputs['background'].input, inputs['color'].input, inputs['edges'].input, inputs['backdrop'].upload],
              self.restyle, [outputs['work'], *style], shown, show_progress_on=progress_on,
              trigger_mode='always_last', **private)
        outputs['thumbs'].select(self.choose, outputs['work'], [outputs['compare'], outputs['mask'], outputs['one']],
                                 queue=False, show_progress='hidden', api_visibility='private')

    # --- What the controls do -----------------------------------------------------------------------------------------

    def note_uploads(self, files: list[str], request: gr.Request) -> None:
        """The visitor's, from the moment they are here."""
        self.storage.use(request.session_hash, map(Path, files or []))

    def leave(self, request: gr.Request) -> None:
        """Deletes what the visitor had here."""
        self.storage.leave(request.session_hash)

    def take_example(self, request: gr.Request) -> list[str]:
        """The example, as if the visitor had uploaded it."""
        path = self.storage.new_folder(request.session_hash) / 'example.jpg'
        write_bytes(path, self.example)
        return [str(path)]

    def cut(self, work: Work, files: list[str] | None, weights: str, resolution: str, background: str, color: str,
            backdrop: str | None, edges: str, request: gr.Request,
            progress: gr.Progress = gr.Progress()) -> tuple:  # noqa: B008
        """All that the page shows, for new files or settings."""
        start = time.perf_counter()
        with in_words():
            style = self._style(background, color, backdrop, edges)
            paths = self._given(files, request)
            if any(map(is_video, paths)):
                shown = self._show_video(self._convert(paths, weights, resolution, style, request, progress), start)
            else:
                cuts, refused = self._segment(paths, weights, resolution, request, progress)
                shown = self._show(Work(cuts, self._render(cuts, style, request, progress), refused), start)
            self._forget(work, request)
            return shown

    def restyle(self, work: Work, background: str, color: str, backdrop: str | None, edges: str, request: gr.Request,
                progress: gr.Progress = gr.Progress()) -> Any:  # noqa: B008
        """All that the page shows, for another background or other edges: the network is not asked again."""
        if not work.cuts or (background == 'picture' and not backdrop):
            return gr.skip()
        start = time.perf_counter()
        with in_words():
            style = self._style(background, color, backdrop, edges)
            shown = self._show(work._replace(results=self._render(work.cuts, style, request, progress)), start)
            self._forget(Work(results=work.results), request)
            return shown

    def choose(self, work: Work, event: gr.SelectData) -> tuple:
        """Another picture of several comes to the front."""
        result = work.results[event.index]
        return (str(result.before), str(result.after)), str(result.mask), _download(result.file)

    def _style(self, output: str, color: str, backdrop: str | None, edges: str) -> Style:
        """What the controls say about results. Raises ValueError where they do not say enough."""
        if output == 'picture' and not backdrop:
            raise ValueError('Choose the picture that goes behind the object first.')
        try:
            picture = read_image(Path(backdrop).read_bytes(), self.limits.pixels) if output == 'picture' else None
        except (ValueError, OSError) as error:
            raise ValueError(refusal(Path(backdrop), error)) from error
        return Style(output=output, color=parse_color(color) if output == 'color' else (255,) * 4, backdrop=picture,
                     matting=edges)

    def _forget(self, work: Work, request: gr.Request) -> None:
        """Deletes the files of results, and masks if there are any, which others have taken the place of."""
        made = [*(cut.mask for cut in work.cuts[:1]), *(result.file for result in work.results[:1])]
        self.storage.delete(request.session_hash, [path.parent for path in made])

    def _given(self, files: list[str] | None, request: gr.Request) -> list[Path]:
        paths = [Path(file) for file in files or []]
        if not paths:
            raise ValueError('Drop, choose or paste a picture first.')
        if any(map(is_video, paths)) and len(paths) > 1:
            raise ValueError('Please give a video alone, without other files.')
        self.storage.use(request.session_hash, paths)
        return paths

    def _segment(self, paths: list[Path], weights: str, resolution: str, request: gr.Request,
                 progress: gr.Progress) -> tuple[list[Cut], list[str]]:
        cuts, refused = segment(paths, self.weights[weights], resolution, self.limits,
                                self.storage.new_folder(request.session_hash), _report(progress, 'Looking', 'pictures'))
        if not cuts:
            raise ValueError('\n'.join(refused))
        return cuts, refused

    def _render(self, cuts: Sequence[Cut], style: Style, request: gr.Request, progress: gr.Progress) -> list[Result]:
        self.storage.use(request.session_hash, [path for cut in cuts for path in cut])
        return render(cuts, style, self.limits, self.storage.new_folder(request.session_hash),
                      _report(progress, 'Cutting', 'pictures'))

    def _convert(self, paths: list[Path], weights: str, resolution: str, style: Style, request: gr.Request,
                 progress: gr.Progress) -> Path:
        try:
            return convert(paths[0], self.weights[weights], resolution, style, self.limits,
                           self.storage.new_folder(request.session_hash), _report(progress, 'Cutting', 'frames'))
        except ValueError as error:
            raise ValueError(refusal(paths[0], error)) from error

    def _show(self, work: Work, start: float) -> tuple:
        first, several = work.results[0], len(work.results) > 1
        count = f'{len(work.results)} pictures' if several else 'Done'
        status = [f'{count} in {time.perf_counter() - start:.1f} s.', *(f'Left out: {line}' for line in work.refused)]
        archive = pack(work.results, first.file.parent / 'cutouts.zip') if several else None
        return (work, gr.update(visible=False), gr.update(visible=True), (str(first.before), str(first.after)),
                str(first.mask), gr.update(value=[str(result.after) for result in work.results], visible=several,
                                           selected_index=0 if several else None),
                _download(first.file), gr.update(value=archive and str(archive), visible=several),
                gr.update(visible=False), None, None, _plain('\n\n'.join(status)))

    def _show_video(self, film: Path, start: float) -> tuple:
        return (Work(), gr.update(visible=False), gr.update(visible=False), None, None, None, gr.skip(), gr.skip(),
                gr.update(visible=True), str(film), _download(film), f'Done in {time.perf_counter() - start:.1f} s.')

    # --- HTTP API -----------------------------------------------------------------------------------------------------

    def _add_api(self) -> None:
        """`/cut_out` and `/weights` (docs/app.md); their controls are on no screen."""
        with gr.Column(visible=False):
            inputs = [
                gr.File(file_count='multiple', label='Pictures, or one video'),
                gr.Dropdown(list(self.weights), value=next(iter(self.weights)), label='Weights: a name from /weights'),
                gr.Textbox('', label="Resolution: WxH, a long side, 'native', or '' as trained"),
                gr.Dropdown(list(OUTPUTS), value='cutout', label='Output'),
                gr.Textbox(WHITE, label="Color, for output 'color': #rrggbb or #rrggbbaa"),
                gr.Dropdown([value for _, value in EDGES], value='', label='Colour of soft edges'),
                gr.File(label="Backdrop, for output 'picture'")]
            outputs = [gr.File(file_count='multiple', label='Results'), gr.JSON(label='Refused')]
            gr.Button().click(self.api_cut_out, inputs, outputs, api_name='cut_out', concurrency_id='network')
            gr.Button().click(self.api_weights, None, gr.JSON(label='Weights'), api_name='weights', queue=False)

    def api_cut_out(self, request: gr.Request, files: list[str] | None, weights: str, resolution: str, output: str,
                    color: str, edges: str, backdrop: str | None = None,
                    progress: gr.Progress = gr.Progress()) -> tuple[list[str], list[str]]:  # noqa: B008
        """Cuts the objects out of pictures or of one video. Gives the results, PNG (videos WebM or MP4) named after
        the uploads, and a line for each file that was refused."""
        with in_words():
            style = self._style(output, color, backdrop, edges)
            paths = self._given(files, request)
            if any(map(is_video, paths)):
                return [str(self._convert(paths, weights, resolution, style, request, progress))], []
            cuts, refused = self._segment(paths, weights, resolution, request, progress)
            return [str(result.file) for result in self._render(cuts, style, request, progress)], refused

    def api_weights(self) -> dict[str, str]:
        """The names of the weights, the first one first, each with the size it was trained at, WxH."""
        return {name: 'x'.join(map(str, weights.sizes('')((1024, 1024))))
                for name, weights in self.weights.items()}


@contextmanager
def in_words() -> Iterator[None]:
    """Shows the errors that are a visitor's business in the page, and in answers of the API."""
    try:
        yield
    except (ValueError, TimeoutError) as error:
        raise gr.Error(_plain(str(error)), duration=None, print_exception=False) from error
    except FileNotFoundError as error:
        raise gr.Error('Your files are no longer here. Please give them again.', duration=None,
                       print_exception=False) from error


def _plain(text: str) -> str:
    """Text, file names in it, that the page shows as it is."""
    return html.escape(text, quote=False)


def _download(file: Path) -> Any:
    return gr.update(value=str(file), label=f'Download {file.name}')


def _report(progress: gr.Progress, verb: str, unit: str) -> Report:
    return lambda done, total: progress((done, total), desc=verb, unit=unit)


def launch(page: gr.Blocks, storage: Storage, limits: Limits, host: str, port: int | None) -> str:
    """Starts serving in the background and returns the address. Raises OSError where the port is taken."""
    upload = limits.files * limits.file_mb * 1_000_000
    gate = Middleware(Gate, storage=storage, upload_bytes=upload, stored_bytes=limits.stored_mb * 1_000_000)
    fonts = ['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif']  # the visitor's own: none is fetched
    theme = gr.themes.Base(primary_hue='teal', neutral_hue='slate', radius_size='lg', font=fonts,
                           font_mono=['ui-monospace', 'monospace']).set(
        button_primary_background_fill='*primary_600', button_primary_background_fill_hover='*primary_700',
        button_primary_background_fill_dark='*primary_600', button_primary_background_fill_hover_dark='*primary_500',
        block_info_text_color='*neutral_500', block_info_text_color_dark='*neutral_400')
    _, address, _ = page.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
        theme=theme, css_paths=FOLDER / 'page.css', js=(FOLDER / 'page.js').read_text(encoding='utf-8'),
        i18n=gr.I18n(en=DROP), footer_links=[], run_history=False, ssr_mode=False, pwa=False, mcp_server=False,
        enable_monitoring=False, allowed_paths=[], blocked_paths=[], max_file_size=limits.file_mb * 1_000_000,
        app_kwargs={'middleware': [gate], 'docs_url': None, 'redoc_url': None})
    return address
