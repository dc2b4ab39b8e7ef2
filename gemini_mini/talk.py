"""A conversation with a person or a program: shown as it is written, kept in a folder as it goes.

    out/demo-1/picture-1.png ...  sound-1.wav ...  index.html

Everything is saved when it is whole, so whatever ends the program leaves what was made. Ctrl-C ends
the answer under way and keeps its whole parts; a second one ends the program.
Next: ../sample.py, the command; api.py, the same in a notebook.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from gemini_mini import api, errors, stream
from gemini_mini.decode import options as options_lib, page, prompt, terminal
from gemini_mini.tokenizers import audio_io, image_io


class Stop:
    """`with Stop() as stop:` the first Ctrl-C sets `stop.is_asked`, the second raises KeyboardInterrupt."""

    def __enter__(self) -> "Stop":
        self.is_asked = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: object) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        os.write(2, b"\nstopping; Ctrl-C again ends it at once\n")  # it may be compiling, for seconds

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)


class Keeper:
    """A fresh folder, made when the first thing is kept."""

    def __init__(self, folder: Path | None, name: str):
        page.check_folder(folder)
        self.asked, self.name, self.folder = folder, name, None
        self.numbers = {"picture": itertools.count(1), "sound": itertools.count(1)}

    def path(self, name: str) -> Path:
        """Where something of this name goes."""
        self.folder = self.folder or page.fresh_folder(self.asked, self.name)
        return self.folder / name

    def save(self, part: stream.Image | stream.Audio) -> Path:
        """Write a picture or a sound and say where."""
        if isinstance(part, stream.Image):
            path = self.path(f"picture-{next(self.numbers['picture'])}.png")
            image_io.write_png(path, part.pixels)
        else:
            path = self.path(f"sound-{next(self.numbers['sound'])}.wav")
            audio_io.write_wav(path, part.samples)
        return path


class Talk:
    """Asks a model and tells the answers: to a person, or as a line of JSON each."""

    def __init__(self, model: api.Model, keeper: Keeper, options: dict, pictures: terminal.Protocol, is_json: bool):
        self.model, self.keeper, self.options, self.pictures, self.is_json = model, keeper, options, pictures, is_json
        self.is_heard = options["best_of"] == 1  # as it is written; the best of several is known at the end
        self.document: stream.Document = []  # all turns, for the page
        self.speed = ""

    def ask(self, words: Sequence[str], num_samples: int) -> None:
        """Answer one prompt, `num_samples` times."""
        self._turn(words, lambda on_tokens: self.model.generate_many([words] * num_samples, on_tokens, **self.options))

    def chat(self, lines: Iterable[str]) -> None:
        """Answer line after line, each in the light of all before it; what cannot be used is said and passed over."""
        chat = self.model.chat(**self.options)
        for words in map(prompt.split, lines):
            if words == ["/new"]:
                chat = self.model.chat(**self.options)
            elif words:
                try:
                    self._turn(words, lambda on_tokens: [chat.send(words, on_tokens)])
                except errors.InputError as error:
                    print(f"error: {error}", file=sys.stderr)

    def batch(self, prompts: Sequence[Sequence[str]]) -> None:
        """Answer many prompts at once, a line of JSON each as it is ready; `index` is the prompt's, from 0.

        One that cannot be read has a line that says why. When it is stopped, prompts of whose answer no part is whole have no line.
        Raises: InputError at the end, when some could not be read.
        """
        told, ids, context = {}, {}, self.model.run.model.config.context_tokens
        for index, words in enumerate(prompts):
            try:
                made = self.model.encode(words)
                if len(made) >= context:
                    raise errors.InputError(f"the prompt has {len(made)} tokens, and the model reads {context} with its answer; shorten it")
                ids[index] = made
            except errors.InputError as error:
                print(json.dumps({"prompt": list(words), "index": index, "error": str(error)}), flush=True)  # in ASCII: half a character may be what is wrong
        readable = list(ids)

        def tell(place: int, answer: api.Answer) -> None:
            if answer or not stop.is_asked:
                index = readable[place]
                told[index] = answer
                self._print_json(prompts[index], index, answer, [self._tell(part) for part in answer], stop.is_asked)

        if not ids:
            raise errors.InputError("none of the prompts can be read; their lines say why")
        with Stop() as stop:
            self.model.answer(list(ids.values()), options_lib.Options(**self.options), lambda *_: stop.is_asked, on_answer=tell)
            if len(told) < len(ids):
                print(f"stopped: {len(told)} of {len(prompts)} prompts have an answer", file=sys.stderr)
            for index in sorted(told):
                self._add(prompts[index], [told[index]])
            self._write_page()
        if len(ids) < len(prompts):
            raise errors.InputError(f"{len(prompts) - len(ids)} of {len(prompts)} prompts cannot be read; their lines say why")

    def _turn(self, words: Sequence[str], generate: Callable[[Callable], list[api.Answer]]) -> None:
        """Ask, tell the first answer as it comes and the others after it, and keep them."""
        told: list[dict] = []  # pictures and sounds of the first answer
        tokenizers, times = self.model.run.tokenizers, [time.monotonic()]
        typewriter = terminal.Typewriter(tokenizers.vocab, tokenizers.text.decode, self._say,
                                         lambda part: told.extend(map(self._tell, tokenizers.decode_parts([part]))))

        def on_tokens(index: int, tokens: Int32[np.ndarray, "_"]) -> bool:
            times.append(time.monotonic())
            if index == 0:
                typewriter.add(tokens)
            return stop.is_asked

        with Stop() as stop:
            answers = generate(on_tokens)
            is_stopped = stop.is_asked  # and not while they are told, which goes on
            numbered = [(index, answer) for index, answer in enumerate(answers) if answer or index == 0 or not is_stopped]
            times.append(time.monotonic())
            self._say("\n")
            self._add(words, [answer for _, answer in numbered])
            for index, answer in numbered:
                heard = iter(told) if self.is_heard and index == 0 else None
                if index:
                    self._say(f"[{index + 1}] ")
                if heard:
                    parts = [{"text": part.text} if isinstance(part, stream.Text) else next(heard) for part in answer]
                else:
                    parts = [self._tell(part) for part in answer]
                    self._say("\n")
                if self.is_json:
                    self._print_json(words, index, answer, parts, is_stopped)
            count, first_s, rest_s = sum(len(answer.tokens) for answer in answers), times[1] - times[0], times[-2] - times[1]
            self.speed = f"{count} tokens; first after {first_s:.2f} s" + (
                f", then {(count - len(answers)) / rest_s:,.0f} tokens/s" if rest_s > 0 else "")
            self._write_page()

    def _tell(self, part: stream.Part) -> dict:
        """Say a text, or keep a picture or a sound and show it; what it is, for JSON."""
        if isinstance(part, stream.Text):
            self._say(terminal.printable(part.text))
            return {"text": part.text}
        path = self.keeper.save(part)
        shown = terminal.picture(part.pixels, self.pictures) if isinstance(part, stream.Image) else ""
        self._say(f"\n[{path}]\n{shown}")
        return {"picture" if isinstance(part, stream.Image) else "sound": str(path)}

    def _say(self, text: str) -> None:
        if not self.is_json:
            print(text, end="", flush=True)

    def _print_json(
        self, words: Sequence[str], index: int, answer: api.Answer, parts: list[dict], is_stopped: bool
    ) -> None:
        line = {"prompt": list(words), "index": index, "answer": parts, "logprob": round(answer.logprob, 4),
                "tokens": len(answer.tokens), "stopped": is_stopped}
        print(json.dumps(line, ensure_ascii=False), flush=True)

    def _add(self, words: Sequence[str], answers: Sequence[api.Answer]) -> None:
        patch = self.model.run.tokenizers.image.config.patch
        self.document += [stream.Role("user"), *api.read(words, patch)]
        for answer in answers:
            self.document += [stream.Role("model"), *answer]

    def _write_page(self) -> None:
        """The page of all that was said so far, written anew."""
        facts = {"run": self.model.run.folder, **{name: value for name, value in self.options.items() if value}}
        facts |= {"speed": self.speed} if self.speed else {}
        rows = [(page.escape(name), page.escape(value)) for name, value in facts.items()]
        path = self.keeper.path("index.html")
        page.write(path, f"A conversation with {self.keeper.name}", page.conversation(self.document) + page.table(rows))
        print(f"{path}\n{self.speed}".strip(), file=sys.stderr)


NOT_UTF8 = "standard input: must be text in UTF-8 ({}); give pictures and sounds by their paths"


def read_lines(file: Iterable[str]) -> list[str]:
    """Parts from a file, one a line; empty lines count for nothing. Raises: InputError where it is not UTF-8."""
    try:
        return [line.rstrip("\n") for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise errors.InputError(NOT_UTF8.format(error)) from None


def read_prompts(file: Iterable[str], where: str) -> list[list[str]]:
    """Prompts from JSON lines: a text, a list of parts, or an object with such a list as "parts".

    Raises: InputError naming the line that is none of these or names a file that is missing.
    """
    try:
        lines, prompts = list(file), []
    except UnicodeDecodeError as error:
        raise errors.InputError(f"{where}: must be text in UTF-8 ({error}); save it again") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise errors.InputError(f"{where}, line {number}: must be JSON ({error}); quote texts with \"") from None
        parts = value.get("parts") if isinstance(value, dict) else [value] if isinstance(value, str) else value
        if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
            raise errors.InputError(f'{where}, line {number}: must be a text, a list of parts, or {{"parts": [...]}}, '
                                    f"and a part a text or a path, in quotes; got {line.strip()[:60]!r}")
        try:
            prompt.check(parts)
        except errors.InputError as error:
            raise errors.InputError(f"{where}, line {number}: {error}") from None
        prompts.append(parts)
    if not prompts:
        raise errors.InputError(f"{where}: holds no prompt; write one in each line")
    return prompts


def typed_lines() -> Iterator[str]:
    """What a person types after a mark, or a program sends, until it ends or asks to."""
    is_person = sys.stdin.isatty()
    if is_person:
        import readline  # noqa: F401  # importing it gives `input` its history and its editing keys

        print("Say something; name files to show them. /new starts again, /quit or Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> " if is_person else "")
        except (EOFError, KeyboardInterrupt):
            return
        except UnicodeDecodeError as error:
            raise errors.InputError(NOT_UTF8.format(error)) from None
        if line.strip() in ("/quit", "/exit"):
            return
        yield line
