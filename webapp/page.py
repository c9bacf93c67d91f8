"""The page's layout, the handlers of its controls, and its HTTP API, in Gradio."""

import html
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from starlette.middleware import Middleware

from inference.compose import OUTPUTS, Style
from inference.edges import MATTING
from inference.images import read_backdrop, write_bytes
from webapp.gate import Gate
from webapp.jobs import (
    Limits,
    LoadedModel,
    Report,
    Result,
    Segmentation,
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
BACKGROUNDS = [
    ('Transparent', 'cutout'),
    ('Colour', 'color'),
    ('Picture', 'picture'),
    ('Blurred', 'blur'),
    ('Mask only', 'mask'),
]
EDGES = [
    ('As photographed', ''),
    ('Clean, fast', 'blur-fusion'),
    ('Clean, thorough', 'multi-level'),
]
RESOLUTIONS: list[str | tuple[str, str]] = [
    ('As trained', ''),
    '512',
    '1024',
    '1024x1024',
    '2048',
    '2048x2048',
    ('The picture’s own', 'native'),
]
WHITE = '#ffffff'
DROP = {
    'upload_text.drop_file': 'Drop or paste here',
    'upload_text.click_to_upload': 'choose files',
}
FILE_TYPES = ['image', 'video', '.heic', '.heif', '.mkv']  # the last are unknown to some browsers
MB = 1_000_000
# Of handlers that no program calls, and of those that wait for their turn on the network.
PRIVATE: dict[str, Any] = {'api_visibility': 'private'}
AT_ONCE: dict[str, Any] = {**PRIVATE, 'queue': False}
ON_NETWORK: dict[str, Any] = {**PRIVATE, 'concurrency_id': 'network'}


class Session(NamedTuple):
    """A visitor's images: the network's masks, the results, and one line for each refused file."""

    segmentations: Sequence[Segmentation] = ()
    results: Sequence[Result] = ()
    refused: Sequence[str] = ()


class Inputs(NamedTuple):
    """The controls on the left."""

    files: Any
    example: Any
    background: Any
    color: Any
    backdrop: Any
    weights: Any
    resolution: Any
    edges: Any
    cut: Any

    @property
    def style(self) -> list[Any]:
        """The controls that describe results, in the order of the handlers' arguments."""
        return [self.background, self.color, self.backdrop, self.edges]


class Outputs(NamedTuple):
    """What the page shows on the right: its components, or a new value for each of them."""

    session: Any
    empty: Any
    pictures: Any
    compare: Any
    mask: Any
    thumbs: Any
    one: Any
    everything: Any
    film: Any
    video: Any
    one_video: Any
    status: Any


class Page:
    """The page.

    Args:
        models: the networks, by the names that visitors see.
        storage: the files of visitors.
        limits: what a visitor may ask for.
        example: an image to try the page with, JPEG.
        notice: shown at the top; '' for none.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        storage: Storage,
        limits: Limits,
        example: bytes,
        notice: str = '',
    ) -> None:
        self.models = models
        self.storage = storage
        self.limits = limits
        self.example = example
        self.notice = notice

    # --- Layout -----------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        """Builds the whole page, ready for `launch`."""
        with gr.Blocks(title='BiRefNet: cut out pictures', analytics_enabled=False) as page:
            gr.HTML(
                '<h1>Cut it out</h1><p>Pictures and videos in, the object alone out: down to hair, '
                'spokes and wires.</p>',
                elem_id='head',
            )
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
        megapixels = limits.pixels / 1e6
        return (f'Up to {limits.files} pictures at once, {megapixels:g} megapixels and '
                f'{limits.file_mb} MB each. Files are deleted when you leave.')

    def _inputs(self) -> Inputs:
        files = gr.File(
            file_count='multiple',
            file_types=FILE_TYPES,
            height=190,
            elem_id='files',
            label='Pictures, or a video',
        )
        gr.HTML(f'<p>{self._limits_in_words()}</p>', elem_id='limits')
        example = gr.Button(
            'No picture at hand? Try an example.',
            size='sm',
            variant='secondary',
            elem_id='example',
        )

        # What goes behind the object. Two controls appear only with the choice that needs them.
        background = gr.Radio(BACKGROUNDS, value='cutout', label='Background', elem_id='background')
        color = gr.ColorPicker(WHITE, label='Colour', visible=False, elem_id='color')
        backdrop = gr.File(
            file_types=['image'],
            height=120,
            visible=False,
            elem_id='backdrop',
            label='The picture behind the object',
        )
        with gr.Accordion('More: weights, resolution, edges', open=False, elem_id='more'):
            weights, resolution, edges = self._more_inputs()
        cut = gr.Button('Cut out', variant='primary', size='lg', elem_id='cut')
        return Inputs(
            files=files,
            example=example,
            background=background,
            color=color,
            backdrop=backdrop,
            weights=weights,
            resolution=resolution,
            edges=edges,
            cut=cut,
        )

    def _more_inputs(self) -> tuple[Any, Any, Any]:
        """Builds the controls of weights, resolution and edges."""
        names = list(self.models)
        weights = gr.Dropdown(names, value=names[0], label='Weights', elem_id='weights')
        resolution = gr.Dropdown(
            RESOLUTIONS,
            value='',
            allow_custom_value=True,
            label='Resolution',
            elem_id='resolution',
            info='Of the network: WxH, by multiples of 32, or a long side in pixels',
        )
        edges = gr.Radio(
            EDGES,
            value='',
            label='Colour of soft edges',
            elem_id='edges',
            info='Clean edges lose the old background’s colour',
        )
        return weights, resolution, edges

    def _outputs(self) -> Outputs:
        session = gr.State(Session())
        empty = gr.HTML('<div class="box"><p>The result appears here</p></div>', elem_id='empty')
        with gr.Column(visible=False, elem_id='pictures') as pictures:
            with gr.Tabs():
                with gr.Tab('Before and after'):
                    compare = gr.ImageSlider(
                        type='filepath',
                        show_label=False,
                        interactive=False,
                        max_height=560,
                        elem_id='compare',
                        buttons=['fullscreen'],
                    )
                with gr.Tab('Mask'):
                    mask = gr.Image(
                        type='filepath',
                        show_label=False,
                        interactive=False,
                        height=560,
                        elem_id='mask',
                        buttons=['download', 'fullscreen'],
                        **_supported(gr.Image, alt_text='The mask: white is the object'),
                    )
            thumbs = _build_thumbs()
            with gr.Row():
                one = gr.DownloadButton('Download', variant='primary', elem_id='one')
                everything = gr.DownloadButton('Download all (zip)', visible=False, elem_id='all')
        with gr.Column(visible=False, elem_id='film') as film:
            video = gr.Video(show_label=False, interactive=False, buttons=[], elem_id='video')
            one_video = gr.DownloadButton('Download', variant='primary', elem_id='one-video')
        status = gr.Markdown(elem_id='status')
        return Outputs(
            session=session,
            empty=empty,
            pictures=pictures,
            compare=compare,
            mask=mask,
            thumbs=thumbs,
            one=one,
            everything=everything,
            film=film,
            video=video,
            one_video=one_video,
            status=status,
        )

    def _connect(self, inputs: Inputs, outputs: Outputs) -> None:
        """Connects the controls to their handlers."""
        shown = list(outputs)
        progress_on = [outputs.empty, outputs.compare, outputs.video]
        cut: dict[str, Any] = {
            'fn': self.cut,
            'inputs': [
                outputs.session,
                inputs.files,
                inputs.weights,
                inputs.resolution,
                *inputs.style,
            ],
            'outputs': shown,
            'show_progress_on': progress_on,
            'scroll_to_output': True,
            **ON_NETWORK,
        }
        inputs.files.upload(self.note_uploads, inputs.files, None, **AT_ONCE)
        inputs.cut.click(**cut)
        inputs.example.click(self.take_example, None, inputs.files, **AT_ONCE).then(**cut)

        # A change of the style uses the network's masks again.
        inputs.background.input(
            _show_style_inputs,
            inputs.background,
            [inputs.color, inputs.backdrop],
            show_progress='hidden',
            **AT_ONCE,
        )
        style_changes = [
            inputs.background.input,
            inputs.color.input,
            inputs.edges.input,
            inputs.backdrop.upload,
        ]
        gr.on(
            style_changes,
            self.restyle,
            [outputs.session, *inputs.style],
            shown,
            show_progress_on=progress_on,
            trigger_mode='always_last',
            **ON_NETWORK,
        )
        outputs.thumbs.select(
            self.choose,
            outputs.session,
            [outputs.compare, outputs.mask, outputs.one],
            show_progress='hidden',
            **AT_ONCE,
        )

    # --- Handlers ---------------------------------------------------------------------------------

    def note_uploads(self, files: list[str], request: gr.Request) -> None:
        """Assigns uploads to the visitor as soon as they arrive."""
        paths = [Path(file) for file in files or []]
        self.storage.use(request.session_hash, paths)

    def leave(self, request: gr.Request) -> None:
        """Deletes the visitor's files."""
        self.storage.leave(request.session_hash)

    def take_example(self, request: gr.Request) -> list[str]:
        """Provides the example as if the visitor had uploaded it."""
        path = self.storage.new_folder(request.session_hash) / 'example.jpg'
        write_bytes(path, self.example)
        return [str(path)]

    def cut(
        self,
        session: Session,
        files: list[str] | None,
        weights: str,
        resolution: str,
        background: str,
        color: str,
        backdrop: str | None,
        edges: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Outputs:
        """Shows the results of new files or settings."""
        start = time.perf_counter()
        with in_words():
            style = self._style(background, color, backdrop, edges)
            paths = self._given(files, request)
            if any(map(is_video, paths)):
                film, notes = self._convert(
                    paths[0], weights, resolution, style, request, progress)
                shown = _film_shown(film, notes, start)
            else:
                segmentations, refused = self._segment(
                    paths, weights, resolution, request, progress)
                results = self._render(segmentations, style, request, progress)
                shown = _results_shown(Session(segmentations, results, refused), start)
            self._forget(session.segmentations, session.results, request)
            return shown

    def restyle(
        self,
        session: Session,
        background: str,
        color: str,
        backdrop: str | None,
        edges: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Any:
        """Shows the results with another background or other edges, without the network."""
        needs_backdrop = background == 'picture' and not backdrop
        if not session.segmentations or needs_backdrop:
            return gr.skip()
        start = time.perf_counter()
        with in_words():
            style = self._style(background, color, backdrop, edges)
            results = self._render(session.segmentations, style, request, progress)
            shown = _results_shown(session._replace(results=results), start)
            self._forget((), session.results, request)
            return shown

    def choose(self, session: Session, event: gr.SelectData) -> tuple[Any, str, Any]:
        """Shows another of several results."""
        result = session.results[event.index]
        return _before_and_after(result), str(result.mask), _download(result.file)

    def _style(
        self,
        output: str | None,
        color: str | None,
        backdrop: str | None,
        edges: str | None,
    ) -> Style:
        """Reads the style from the controls, of which an empty one stands for its default.

        Raises:
            ValueError: something is missing or unknown.
        """
        edges = edges or ''
        if edges and edges not in MATTING:
            raise ValueError(f'edges {edges}: take {" or ".join(MATTING)}')
        pixels = None
        if output == 'picture':
            if not backdrop:
                raise ValueError('Choose the picture that goes behind the object first.')
            try:
                pixels = read_backdrop(Path(backdrop).read_bytes(), self.limits.pixels)
            except (ValueError, OSError) as error:
                raise ValueError(refusal(Path(backdrop), error)) from error
        return Style(
            output=output or 'cutout',
            color=parse_color((output == 'color' and color) or WHITE),
            backdrop=pixels,
            matting=edges,
        )

    def _forget(
        self,
        segmentations: Sequence[Segmentation],
        results: Sequence[Result],
        request: gr.Request,
    ) -> None:
        """Deletes the masks and results that others have replaced."""
        # Those of one job lie in one folder.
        files = [segmentation.mask for segmentation in segmentations[:1]]
        files += [result.file for result in results[:1]]
        self.storage.delete(request.session_hash, [file.parent for file in files])

    def _given(self, files: list[str] | None, request: gr.Request) -> list[Path]:
        """Checks the files of a job, and keeps them for the visitor."""
        paths = [Path(file) for file in files or []]
        if not paths:
            raise ValueError('Drop, choose or paste a picture first.')
        if any(map(is_video, paths)) and len(paths) > 1:
            raise ValueError('Please give a video alone, without other files.')
        self.storage.use(request.session_hash, paths)
        return paths

    def _segment(
        self,
        paths: list[Path],
        weights: str | None,
        resolution: str | None,
        request: gr.Request,
        progress: gr.Progress,
    ) -> tuple[list[Segmentation], list[str]]:
        """Segments images. Raises ValueError where all are refused."""
        segmentations, refused = segment(
            paths,
            self._model(weights),
            resolution or '',
            self.limits,
            self.storage.new_folder(request.session_hash),
            _report(progress, 'Looking', 'pictures'),
        )
        if not segmentations:
            raise ValueError('\n'.join(refused))
        return segmentations, refused

    def _model(self, weights: str | None) -> LoadedModel:
        """The network of this name; without one the first."""
        name = weights or next(iter(self.models))
        if name not in self.models:
            raise ValueError(f'weights {name}: take one of {", ".join(self.models)}')
        return self.models[name]

    def _render(
        self,
        segmentations: Sequence[Segmentation],
        style: Style,
        request: gr.Request,
        progress: gr.Progress,
    ) -> list[Result]:
        used = []
        for segmentation in segmentations:
            used += [segmentation.source, segmentation.mask]
        self.storage.use(request.session_hash, used)
        folder = self.storage.new_folder(request.session_hash)
        report = _report(progress, 'Cutting', 'pictures')
        return render(segmentations, style, self.limits, folder, report)

    def _convert(
        self,
        path: Path,
        weights: str | None,
        resolution: str | None,
        style: Style,
        request: gr.Request,
        progress: gr.Progress,
    ) -> tuple[Path, list[str]]:
        """Segments a video. Raises ValueError, in words for the visitor, where it is refused."""
        folder = self.storage.new_folder(request.session_hash)
        report = _report(progress, 'Cutting', 'frames')
        model = self._model(weights)
        try:
            return convert(path, model, resolution or '', style, self.limits, folder, report)
        except ValueError as error:
            raise ValueError(refusal(path, error)) from error

    # --- HTTP API ---------------------------------------------------------------------------------

    def _add_api(self) -> None:
        """Adds `/cut_out` and `/weights` (docs/app.md), whose controls are on no screen."""
        names = list(self.models)
        edges = [value for _, value in EDGES]
        with gr.Column(visible=False):
            inputs = [
                gr.File(file_count='multiple', label='Pictures, or one video'),
                _choice(names, 'Weights: a name from /weights'),
                gr.Textbox('', label="Resolution: WxH, a long side, 'native', or '' as trained"),
                _choice(OUTPUTS, 'Output'),
                gr.Textbox(WHITE, label="Color, for output 'color': #rrggbb or #rrggbbaa"),
                _choice(edges, 'Colour of soft edges'),
                gr.File(label="Backdrop, for output 'picture'"),
            ]
            outputs = [gr.File(file_count='multiple', label='Results'), gr.JSON(label='Refused')]
            gr.Button().click(
                self.api_cut_out,
                inputs,
                outputs,
                api_name='cut_out',
                concurrency_id='network',
            )
            gr.Button().click(
                self.api_weights,
                None,
                gr.JSON(label='Weights'),
                api_name='weights',
                queue=False,
            )

    def api_cut_out(
        self,
        request: gr.Request,
        files: list[str] | None,
        weights: str,
        resolution: str,
        output: str,
        color: str,
        edges: str,
        backdrop: str | None = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[list[str], list[str]]:
        """Cuts the objects out of images or of one video. Returns the results, PNG (of a video
        WebM or MP4) named after the uploads, and one line for each file that was refused, or for
        what the video has lost."""
        with in_words():
            style = self._style(output, color, backdrop, edges)
            paths = self._given(files, request)
            if any(map(is_video, paths)):
                film, notes = self._convert(
                    paths[0], weights, resolution, style, request, progress)
                return [str(film)], notes
            segmentations, refused = self._segment(paths, weights, resolution, request, progress)
            results = self._render(segmentations, style, request, progress)
            return [str(result.file) for result in results], refused

    def api_weights(self) -> dict[str, str]:
        """Returns the names of the weights, the preselected one first, with their training sizes,
        WxH."""
        sizes = {}
        for name, model in self.models.items():
            width, height = model.size_rule('')((1024, 1024))
            sizes[name] = f'{width}x{height}'
        return sizes


def _choice(values: Sequence[str], label: str) -> gr.Dropdown:
    """A choice of which the first is the default. Others are refused in our own words."""
    return gr.Dropdown(list(values), value=values[0], label=label, allow_custom_value=True)


def _build_thumbs() -> gr.Gallery:
    return gr.Gallery(
        label='Results',
        show_label=False,
        columns=6,
        fit_columns=False,
        height=None,
        allow_preview=False,
        object_fit='contain',
        interactive=False,
        visible=False,
        buttons=[],
        elem_id='thumbs',
    )


# --- What handlers return -------------------------------------------------------------------------


@contextmanager
def in_words() -> Iterator[None]:
    """Shows a visitor's mistakes in the page, and in answers of the API."""
    try:
        yield
    except (ValueError, TimeoutError) as error:
        raise gr.Error(_plain(str(error)), duration=None, print_exception=False) from error
    except FileNotFoundError as error:
        message = 'Your files are no longer here. Please give them again.'
        raise gr.Error(message, duration=None, print_exception=False) from error


def _results_shown(session: Session, start: float) -> Outputs:
    """Shows the first result and, of several, all as thumbnails and as an archive."""
    first = session.results[0]
    several = len(session.results) > 1
    archive = None
    if several:
        archive = str(pack(session.results, first.file.parent / 'cutouts.zip'))

    seconds = time.perf_counter() - start
    count = f'{len(session.results)} pictures' if several else 'Done'
    status = [f'{count} in {seconds:.1f} s.']
    status += [f'Left out: {line}' for line in session.refused]
    return Outputs(
        session=session,
        empty=gr.update(visible=False),
        pictures=gr.update(visible=True),
        compare=_before_and_after(first),
        mask=str(first.mask),
        thumbs=gr.update(
            value=[str(result.after) for result in session.results],
            visible=several,
            selected_index=0 if several else None,
        ),
        one=_download(first.file),
        everything=gr.update(value=archive, visible=several),
        film=gr.update(visible=False),
        video=None,
        one_video=None,
        status=_plain('\n\n'.join(status)),
    )


def _film_shown(film: Path, notes: Sequence[str], start: float) -> Outputs:
    """Shows the result of a video, and what it lacks."""
    seconds = time.perf_counter() - start
    status = [f'Done in {seconds:.1f} s.', *notes]
    return Outputs(
        session=Session(),
        empty=gr.update(visible=False),
        pictures=gr.update(visible=False),
        compare=None,
        mask=None,
        thumbs=None,
        one=gr.skip(),
        everything=gr.skip(),
        film=gr.update(visible=True),
        video=str(film),
        one_video=_download(film),
        status=_plain('\n\n'.join(status)),
    )


def _show_style_inputs(background: str) -> tuple[Any, Any]:
    """Shows the colour or the backdrop, where the background needs one."""
    color = gr.update(visible=background == 'color')
    backdrop = gr.update(visible=background == 'picture')
    return color, backdrop


def _before_and_after(result: Result) -> tuple[str, str]:
    return str(result.before), str(result.after)


def _download(file: Path) -> Any:
    return gr.update(value=str(file), label=f'Download {file.name}')


def _plain(text: str) -> str:
    """Escapes text that may contain file names, so that the page shows it as it is."""
    return html.escape(text, quote=False)


def _report(progress: gr.Progress, verb: str, unit: str) -> Report:
    return lambda done, total: progress((done, total), desc=verb, unit=unit)


# --- Serving --------------------------------------------------------------------------------------


def launch(page: gr.Blocks, storage: Storage, limits: Limits, host: str, port: int | None) -> str:
    """Starts serving in the background, and returns the address.

    Raises:
        OSError: the port is taken.
    """
    gate = Middleware(
        Gate,
        storage=storage,
        upload_bytes=limits.files * limits.file_mb * MB,
        stored_bytes=limits.stored_mb * MB,
    )
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        theme=_theme(),
        css_paths=FOLDER / 'page.css',
        js=(FOLDER / 'page.js').read_text(encoding='utf-8'),
        i18n=gr.I18n(en=DROP),
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=limits.file_mb * MB,
        app_kwargs={'middleware': [gate], 'docs_url': None, 'redoc_url': None},
        **_supported(gr.Blocks.launch, run_history=False),
    )
    return address


def _supported(function: Callable, **options: Any) -> dict[str, Any]:
    """Selects the options of a Gradio function that the installed release has."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in parameters}


def _theme() -> gr.themes.Base:
    theme = gr.themes.Base(
        primary_hue='teal',
        neutral_hue='slate',
        radius_size='lg',
        # The visitor's own fonts: none is fetched.
        font=['system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif'],
        font_mono=['ui-monospace', 'monospace'],
    )
    return theme.set(
        button_primary_background_fill='*primary_600',
        button_primary_background_fill_hover='*primary_700',
        button_primary_background_fill_dark='*primary_600',
        button_primary_background_fill_hover_dark='*primary_500',
        block_info_text_color='*neutral_500',
        block_info_text_color_dark='*neutral_400',
    )
