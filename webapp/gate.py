"""ASGI middleware before Gradio that admits only the routes and the data that the page needs."""

import json
import re
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webapp.storage import Storage

# The routes of Gradio that the page uses. Of the others, some fetch addresses and some write to
# accounts elsewhere.
ROUTES = '|'.join((
    r'config',
    r'theme\.css',
    r'favicon\.ico',
    r'robots\.txt',
    r'manifest\.json',
    r'(assets|static)/.+',
    r'gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|cancel|reset)',
    r'gradio_api/queue/(join|data)',
    r'gradio_api/(run|heartbeat)/\w+',
    r'gradio_api/call/(v2/)?\w+(/\w+)?',
    r'gradio_api/file=.+',
))
PATHS = re.compile(rf'/({ROUTES})?/?')
FILE = '/gradio_api/file='
UPLOAD = '/gradio_api/upload'
FORM_BYTES = 1_000_000  # of a request without an upload; and what a form may add to its files
# Scripts of the page may contact no other machine, whatever Gradio's try.
POLICY = '; '.join((
    "default-src 'self' data: blob:",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src 'self' 'unsafe-inline'",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
))


class Gate:
    """ASGI middleware that refuses what the page does not need.

    Answers 404 to other routes than PATHS and to files outside the storage; 403 to calls that
    name such a file, or an address to fetch; 413 to requests of too many bytes; and 507 to
    uploads while the storage is full.

    Args:
        app: the application behind the gate.
        storage: the files of visitors.
        upload_bytes: of the files of one upload, at most.
        stored_bytes: of all files in the storage, at most.
    """

    def __init__(
        self,
        app: ASGIApp,
        storage: Storage,
        upload_bytes: int,
        stored_bytes: int,
    ) -> None:
        self.app = app
        self.storage = storage
        self.upload_bytes = upload_bytes
        self.stored_bytes = stored_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return

        refused = self._refused_path(scope['path'])
        if refused is None and scope['method'] == 'POST':
            refused = self._refused_length(scope)
            is_call = not scope['path'].startswith(UPLOAD)
            if refused is None and is_call:
                body = await _read_body(receive)
                receive = _replay(body, receive)
                refused = self._refused_call(body)

        if refused is not None:
            await refused(scope, receive, send)
            return
        await self.app(scope, receive, _with_policy(send))

    def _refused_path(self, path: str) -> PlainTextResponse | None:
        is_known = PATHS.fullmatch(path) is not None
        if is_known and path.startswith(FILE):
            name = path.removeprefix(FILE)
            is_known = self._is_ours(name) and Path(name).is_file()
        # A file that was deleted a moment ago gets the same answer.
        return None if is_known else PlainTextResponse('There is nothing here.', 404)

    def _refused_length(self, scope: Scope) -> PlainTextResponse | None:
        length = Headers(scope=scope).get('content-length', '')
        if not length.isdecimal():
            return PlainTextResponse('Say how long the data is (Content-Length).', 411)

        is_upload = scope['path'].startswith(UPLOAD)
        allowed = FORM_BYTES
        if is_upload:
            allowed += self.upload_bytes
        if int(length) > allowed:
            return PlainTextResponse('That is more than this page takes.', 413)
        if is_upload and self.storage.size() + int(length) > self.stored_bytes:
            return PlainTextResponse(
                'This page is full at the moment. Please try again in half an hour.', 507)
        return None

    def _refused_call(self, body: bytes) -> PlainTextResponse | None:
        if self._names_only_ours(body):
            return None
        return PlainTextResponse(
            'Upload the file itself: none is read or fetched by its name.', 403)

    def _names_only_ours(self, body: bytes) -> bool:
        """Whether all files that a call names lie in the storage.

        Gradio takes the `path` of a JSON object, at any depth, for a file's.
        """
        try:
            values: list[Any] = [json.loads(body or b'null')]
        except (ValueError, RecursionError):
            return False
        while values:
            value = values.pop()
            if isinstance(value, dict):
                path = value.get('path')
                if path is not None and not (isinstance(path, str) and self._is_ours(path)):
                    return False
                values += value.values()
            elif isinstance(value, list):
                values += value
        return True

    def _is_ours(self, name: str) -> bool:
        try:
            return Path(name).resolve().is_relative_to(self.storage.folder)
        except (OSError, ValueError):
            return False


async def _read_body(receive: Receive) -> bytes:
    body = b''
    more = True
    while more:
        message = await receive()
        body += message.get('body', b'')
        more = message.get('more_body', False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that delivers the body, which has been read, once more."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving


def _with_policy(send: Send) -> Send:
    """Returns a `send` that adds security headers to each response."""
    async def sending(message: Message) -> None:
        if message['type'] == 'http.response.start':
            headers = MutableHeaders(scope=message)
            headers['Content-Security-Policy'] = POLICY
            headers['X-Content-Type-Options'] = 'nosniff'
            headers['Referrer-Policy'] = 'no-referrer'
        await send(message)

    return sending
