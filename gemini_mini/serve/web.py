"""The page and the one address it calls, for this machine alone.

    GET  /      the page, its script and its style; nothing comes from elsewhere
    POST /ask   a form: "part" again and again, texts and files in their order; "chat", the name of a
                conversation; "turns", how many it has; options. The answer comes as lines of JSON, the events of desk.py

Other sites that are open in the same browser may not call it: a foreign Host is refused (a name that
was pointed at 127.0.0.1, "DNS rebinding"), and so is a foreign Origin. Closing the page closes the
connection, which stops the answer.
Starlette and uvicorn: eight small packages and no telemetry, where gradio and nicegui bring about fifty
each and pictures that grow would need a component of our own all the same.
Next: page/page.js.
"""

import asyncio
import contextlib
import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gemini_mini import errors
from gemini_mini.decode import options as options_lib, page, prompt
from gemini_mini.serve import desk as desk_lib

FOLDER = Path(__file__).parent / "page"
HOSTS = ("127.0.0.1", "localhost")
MAX_PARTS = 16
MAX_REQUEST_BYTES = 16_000_000
FORM_BYTES = 100_000  # of them, what a form needs beside the parts in it
MAX_TEXT_BYTES = 64_000
MAX_UPLOAD_S = 60.0  # for a request to arrive
OFFERED = ("temperature", "top_p", "guidance", "seed", "image_size")  # options of the page, beside modalities
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data: blob:; "
          "media-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'")


def make_app(desk: desk_lib.Desk) -> Starlette:
    """The page of a desk."""

    async def index(_: Request) -> Response:
        values = {"NAME": desk.model.run.folder.resolve().name, "MAX_BYTES": MAX_REQUEST_BYTES - FORM_BYTES, "MAX_PARTS": MAX_PARTS,
                  "SUFFIXES": ",".join(sorted(prompt.PICTURES | prompt.SOUNDS | prompt.CLIPS))}
        source = (FOLDER / "index.html").read_text()
        for name, value in values.items():
            source = source.replace(f"{{{name}}}", html.escape(str(value)))
        return Response(source, media_type="text/html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    async def style(_: Request) -> Response:
        return Response(page.STYLE + (FOLDER / "page.css").read_text(), media_type="text/css")

    async def script(_: Request) -> Response:
        return FileResponse(FOLDER / "page.js")

    async def ask(request: Request) -> Response:
        question = await read_question(request)
        events: asyncio.Queue[dict | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(event: dict | None) -> None:
            with contextlib.suppress(RuntimeError):  # the program has ended, and the loop with it: nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        is_stopped = desk.ask(question, tell)

        async def lines() -> AsyncIterator[str]:
            try:
                while (event := await events.get()) is not None:
                    yield json.dumps(event, ensure_ascii=False) + "\n"
            finally:  # also when the page is closed
                is_stopped.set()

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return Starlette(
        routes=[Route("/", index), Route("/page.css", style), Route("/page.js", script), Route("/ask", ask, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
        exception_handlers={HTTPException: _refuse, errors.InputError: _refuse})


async def read_question(request: Request) -> desk_lib.Question:
    """What a form asks. Raises: HTTPException or InputError, with a sentence, when it is too much or makes no sense."""
    if request.headers.get("origin", f"http://{request.headers['host']}") != f"http://{request.headers['host']}":
        raise HTTPException(403, "origin: only the page itself may ask; open it in a tab of its own")
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(411, "request: must say its length; send it in one piece")
    if int(length) > MAX_REQUEST_BYTES:
        raise HTTPException(413, f"request: has {int(length) / 1e6:.1f} MB, but at most {MAX_REQUEST_BYTES / 1e6:.0f} MB "
                                 "are taken; send fewer or smaller files")
    try:
        async with asyncio.timeout(MAX_UPLOAD_S), request.form(
                max_files=MAX_PARTS, max_fields=2 * MAX_PARTS, max_part_size=MAX_TEXT_BYTES) as form:
            given = [part if isinstance(part, str) else desk_lib.Upload(part.filename or "file", await part.read())
                     for part in form.getlist("part")]
            options, chat, turns = read_options(form), str(form.get("chat", ""))[:64], str(form.get("turns", ""))
    except TimeoutError:
        raise HTTPException(408, f"request: took more than {MAX_UPLOAD_S:.0f} s to arrive; send it again") from None
    parts = [part for part in given if not isinstance(part, str) or part.strip()]
    if not 1 <= len(parts) <= MAX_PARTS:
        raise errors.InputError(f"question: must have 1 to {MAX_PARTS} parts, got {len(parts)}; "
                                "type something, or add a picture or a sound")
    return desk_lib.Question(parts, options, chat, int(turns) if re.fullmatch("[0-9]{1,9}", turns) else 0)


def read_options(form: FormData) -> dict:
    """The options a form names, checked. Raises: InputError."""
    plain, chosen = options_lib.Options(), {}
    for name in OFFERED:
        value, kind = form.get(name, ""), type(getattr(plain, name))
        if isinstance(value, UploadFile):
            raise errors.InputError(f"{name}: must be written out, got a file")
        if value:
            try:
                chosen[name] = kind(value)
            except ValueError:
                raise errors.InputError(f"{name}: must be a number, got {value[:40]!r}") from None
    if modalities := tuple(map(str, form.getlist("modality"))):
        chosen["modalities"] = modalities
    options_lib.Options(**chosen)
    return chosen


async def _refuse(_: Request, error: Exception) -> Response:
    """One sentence for a person."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code)
    return JSONResponse({"error": str(error)}, 503 if isinstance(error, desk_lib.Busy) else 400)
