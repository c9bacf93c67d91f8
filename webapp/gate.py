"""What stands between the network and Gradio: only addresses that the page needs, and no more data than it takes."""

import json
import re
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webapp.storage import Storage

# Gradio has many more: some fetch addresses, some write to accounts elsewhere, none is of use here.
PATHS = re.compile(r'/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|(assets|static)/.+|'
                   r'gradio_api/(info|openapi\.json|startup-events|upload|upload_progress|queue/(join|data)|cancel|'
                   r'reset|run/\w+|heartbeat/\w+|call/(v2/)?\w+(/\w+)?|file=.+))?/?')
FILE, UPLOAD = '/gradio_api/file=', '/gradio_api/upload'
FORM_BYTES = 1_000_000  # of a request that is no upload; and what an upload's form may add to its files
# The page is its own: a browser is to ask nobody else for anything, whatever a script of Gradio's tries.
POLICY = ("default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
          "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'")


class Gate:
    """ASGI middleware. Other addresses than PATHS are answered by 404, and so are files outside the storage, whatever
    Gradio would say; calls that name such a file, or an address to fetch, by 403; a request of more than `upload_bytes`
    by 413, and uploads by 507 while the storage holds more than `stored_bytes`."""

    def __init__(self, app: ASGIApp, storage: Storage, upload_bytes: int, stored_bytes: int) -> None:
        self.app, self.storage = app, storage
        self.upload_bytes, self.stored_bytes = upload_bytes, stored_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        refused = self._refusal(scope)
        if refused is None and scope['method'] == 'POST' and not scope['path'].startswith(UPLOAD):
            body = await _body(receive)
            receive = _replay(body, receive)
            if not self._names_only_ours(body):
                refused = PlainTextResponse('Upload the file itself: none is read or fetched by its name.', 403)
        await (refused or self.app)(scope, receive, send if refused else _with_policy(send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        path = scope['path']
        name = path.removeprefix(FILE)
        if not PATHS.fullmatch(path) or (name != path and not (self._is_ours(name) and Path(name).is_file())):
            return PlainTextResponse('There is nothing here.', 404)  # as for what was deleted a moment ago
        if scope['method'] != 'POST':
            return None
        length = Headers(scope=scope).get('content-length', '')
        if not length.isdecimal():
            return PlainTextResponse('Say how long the data is (Content-Length).', 411)
        if int(length) > FORM_BYTES + self.upload_bytes * path.startswith(UPLOAD):
            return PlainTextResponse('That is more than this page takes.', 413)
        if path.startswith(UPLOAD) and self.storage.size() + int(length) > self.stored_bytes:
            return PlainTextResponse('This page is full at the moment. Please try again in half an hour.', 507)
        return None

    def _is_ours(self, name: str) -> bool:
        try:
            return Path(name).resolve().is_relative_to(self.storage.folder)
        except (OSError, ValueError):
            return False

    def _names_only_ours(self, body: bytes) -> bool:
        """Whether all files that a call names, as `path` of a JSON object at any depth, lie in the storage."""
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


async def _body(receive: Receive) -> bytes:
    body, more = b'', True
    while more:
        message = await receive()
        body += message.get('body', b'')
        more = message.get('more_body', False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` as if `body` had not been read yet."""
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message['type'] == 'http.response.start':
            headers = MutableHeaders(scope=message)
            headers['Content-Security-Policy'] = POLICY
            headers['X-Content-Type-Options'] = 'nosniff'
            headers['Referrer-Policy'] = 'no-referrer'
        await send(message)

    return sending
