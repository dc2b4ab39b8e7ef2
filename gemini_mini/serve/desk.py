"""One model behind a desk: questions wait in line, one is answered at a time, all that comes is told.

    web.py --Question--> [ line of at most MAX_ASKED ] --worker thread--> tell(event), ..., tell(None)

Events are what the page is sent, a line of JSON each: {"waiting": 2} questions before this one,
{"note": "a sentence"} when something was forgotten, {"text": "..."} more words, {"part": 0, "picture":
"data:..."} a picture so far (again with every row of codes, the last time whole), {"part": 1, "sound":
"data:..."}, {"error": "a sentence"} and {"done": {"tokens": 72, "seconds": 1.3, "stopped": ""}}.
Next: web.py.
"""

import base64
import concurrent.futures
import io
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import soundfile
from jaxtyping import Int32, UInt8

from gemini_mini import api, errors, stream
from gemini_mini.decode import prompt, terminal
from gemini_mini.tokenizers import bundle, image

MAX_ASKED = 4  # questions in line, the one under way included
MAX_CHATS = 8  # conversations that are remembered; the one unused for longest is forgotten
MAX_SECONDS = 120.0  # for one answer

Tell = Callable[[dict | None], object]


class Upload(NamedTuple):
    """A file that came with a question; its name says its kind."""

    name: str
    data: bytes


class Question(NamedTuple):
    """The user's turn in a conversation."""

    parts: Sequence[str | Upload]
    options: dict
    chat: str
    turns: int = 0  # answered before, as whoever asks remembers


class Busy(errors.InputError):
    """The line is full."""


class Desk:
    """Answers questions in a thread of its own, in the order they came."""

    def __init__(self, model: api.Model, max_seconds: float = MAX_SECONDS):
        self.model, self.max_seconds = model, max_seconds
        self.worker = concurrent.futures.ThreadPoolExecutor(1, "answers")
        self.chats: dict[str, api.Chat] = {}  # used by the worker alone; the longest unused first
        self.num_asked = 0
        self.lock = threading.Lock()
        self.is_closed = threading.Event()

    def ask(self, question: Question, tell: Tell) -> threading.Event:
        """Put a question in line. `tell` is called from another thread; setting the returned event stops the answer.

        Raises: Busy when the line is full.
        """
        with self.lock:
            if self.num_asked >= MAX_ASKED:
                raise Busy(f"busy: {self.num_asked} questions are waiting, which is all there is room for; ask again in a moment")
            if self.num_asked:
                tell({"waiting": self.num_asked})
            self.num_asked += 1
        is_stopped = threading.Event()
        self.worker.submit(self._work, question, tell, is_stopped)
        return is_stopped

    def warm_up(self) -> None:
        """Compile what an answer needs, before anyone asks."""
        self.worker.submit(self.model.chat().send, ["hello"], lambda *_: True)

    def close(self) -> None:
        """Stop the answer under way and those in line."""
        self.is_closed.set()

    def _work(self, question: Question, tell: Tell, is_stopped: threading.Event) -> None:
        try:
            if not (is_stopped.is_set() or self.is_closed.is_set()):
                self._answer(question, tell, is_stopped)
        except errors.InputError as error:
            tell({"error": str(error)})
        except Exception as error:
            logging.exception("serve: an answer failed")
            tell({"error": f"a fault of this program, not of yours ({type(error).__name__}); the terminal shows where"})
        finally:
            with self.lock:
                self.num_asked -= 1
            tell(None)

    def _answer(self, question: Question, tell: Tell, is_stopped: threading.Event) -> None:
        start = time.monotonic()
        why = ""

        def must_end() -> bool:
            nonlocal why
            if time.monotonic() - start > self.max_seconds:
                why = f"after {self.max_seconds:g} s, the longest an answer may take"
            elif is_stopped.is_set() or self.is_closed.is_set():
                why = "as asked"
            return bool(why)

        def check() -> None:
            if must_end():
                raise errors.InputError(f"stopped {why}, while the files were read; send fewer or shorter ones")

        def on_tokens(_: int, tokens: Int32[np.ndarray, "_"]) -> bool:
            teller.add(tokens)
            return must_end()

        parts = read(question.parts, self.model.run.tokenizers.image.config.patch, check)
        teller = Teller(self.model.run.tokenizers, tell)

        chat = self._chat(question.chat)
        if question.turns and not chat.turns:
            tell({"note": f"what was said before is forgotten: the {MAX_CHATS} conversations used last are remembered, until the program ends"})
        remembered = len(chat.turns)
        answer = chat.send(parts, on_tokens, **question.options)
        if lost := remembered + 1 - len(chat.turns):
            tell({"note": f"the context is full: the oldest {lost} of {remembered} remembered turns {'is' if lost == 1 else 'are'} forgotten"})
        tell({"done": {"tokens": len(answer.tokens), "seconds": round(time.monotonic() - start, 2), "stopped": why}})

    def _chat(self, name: str) -> api.Chat:
        self.chats[name] = self.chats.pop(name, None) or self.model.chat()
        while len(self.chats) > MAX_CHATS:
            self.chats.pop(next(iter(self.chats)))
        return self.chats[name]


class Teller:
    """Makes events of the tokens of one answer: text as it comes, pictures row by row, sounds when they are whole."""

    def __init__(self, tokenizers: bundle.Tokenizers, tell: Tell):
        self.tokenizers, self.tell = tokenizers, tell
        self.writer = terminal.Typewriter(tokenizers.vocab, tokenizers.text.decode, self._say, self._show)
        self.num_parts = 0  # pictures and sounds that are whole
        self.num_rows = 0  # of codes, of the picture under way

    def add(self, tokens: Int32[np.ndarray, "_"]) -> None:
        """Tell what these tokens add."""
        self.writer.add(tokens)
        if len(self.writer.sizes) == 2 and (rows := len(self.writer.codes) // self.writer.sizes[1]) > self.num_rows:
            self.num_rows = rows
            self._show_rows(rows, *self.writer.sizes)

    def _say(self, text: str) -> None:
        if text:
            self.tell({"text": text})

    def _show_rows(self, rows: int, height: int, width: int) -> None:
        """The upper rows. The decoder looks at neighbours, so those below are guessed: the last row, again and again."""
        known = np.array(self.writer.codes[: rows * width], np.int32).reshape(rows, width)
        codes = np.pad(known, ((0, height - rows), (0, 0)), "edge")
        pixels = image.decode_many(self.tokenizers.image, codes[None])[0]
        self._tell_picture(pixels, rows * self.tokenizers.image.config.patch)

    def _show(self, part: stream.EncodedPart) -> None:
        (shown,) = self.tokenizers.decode_parts([part])
        if isinstance(shown, stream.Image):
            self._tell_picture(shown.pixels, len(shown.pixels))
        else:
            wav = io.BytesIO()
            soundfile.write(wav, shown.samples, stream.SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
            self.tell({"part": self.num_parts, "sound": _data_uri("audio/wav", wav)})
        self.num_parts, self.num_rows = self.num_parts + 1, 0

    def _tell_picture(self, pixels: UInt8[np.ndarray, "height width 3"], num_shown: int) -> None:
        """A picture of its final size, see-through below its first `num_shown` lines."""
        png, alpha = io.BytesIO(), np.zeros((*pixels.shape[:2], 1), np.uint8)
        alpha[:num_shown] = 255
        PIL.Image.fromarray(np.concatenate([pixels, alpha], axis=2)).save(png, "PNG")
        self.tell({"part": self.num_parts, "picture": _data_uri("image/png", png)})


def read(parts: Sequence[str | Upload], patch: int, check: Callable[[], None] = lambda: None) -> stream.Document:
    """What a person sent, as parts. A text is never taken for the name of a file on this machine. `check` may end it by raising.

    Raises: InputError, in the words of the person's own name for the file.
    """
    document: stream.Document = []
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate(parts):
            if isinstance(part, str):
                document.append(stream.Text(part))
                continue
            suffix = Path(part.name).suffix.lower()
            if suffix not in prompt.PICTURES | prompt.SOUNDS | prompt.CLIPS:
                raise errors.InputError(f"{part.name}: must be a picture ({' '.join(sorted(prompt.PICTURES))}), a sound "
                                        f"({' '.join(sorted(prompt.SOUNDS))}) or a clip ({' '.join(sorted(prompt.CLIPS))}); convert it")
            path = Path(folder, f"{number}{suffix}")
            path.write_bytes(part.data)
            try:
                document += prompt.read([str(path)], patch, check)
            except errors.InputError as error:
                raise errors.InputError(str(error).replace(str(path), part.name)) from None
    return document


def _data_uri(kind: str, data: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
