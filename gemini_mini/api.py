"""A trained model in a few names: parts in, parts out.

    import gemini_mini

    model = gemini_mini.load("runs/demo")
    answer = model.generate(["Draw: red heart"])            # a list of parts; shows itself in Jupyter
    model.generate(["Two ideas:", "blue_cat.png", pixels], temperature=0.7, image={"temperature": 1.0})
    model.score(["cat.png", "What is it?"], ["cat", "dog"])  # an answer and its likelihood for each
    model.generate(["Draw: cat"], best_of=8, named="cat")  # of eight the one it would itself most likely call a cat
    chat = model.chat()
    chat.send(["Draw: cat"])
    chat.send(["Now a dog."])                                # reads only what is new

A part is a text or the path of a file, as on the command line; a `pathlib.Path`; a Pillow picture;
an array (height, width, 3) of uint8, or samples of float32 at 16 kHz; or a part of `stream`.
Options are those of `options.Options`. Next: decode/engine.py.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from jax.sharding import Mesh
from jaxtyping import Int32

from gemini_mini import errors, run as run_lib, stream, vocab as vocabulary
from gemini_mini.decode import engine, options as options_lib, page, prompt, reading, scoring
from gemini_mini.tokenizers import image_io

WHAT = "What is it?"  # as the worlds ask about a picture (data_prep/phrases.py)


class Picture(stream.Image):
    """A picture that shows itself in Jupyter."""

    def _repr_html_(self) -> str:
        return page.part(self)


class Sound(stream.Audio):
    """A sound that Jupyter plays."""

    def _repr_html_(self) -> str:
        return page.part(self)


class Answer(list):
    """The parts of an answer, and how likely the model found it."""

    def __init__(self, parts: Sequence[stream.Part], written: engine.Answer):
        """`tokens`, `logprobs` of each and `logprob` of the whole, in nats, are those of `written`."""
        shown = {stream.Image: Picture, stream.Audio: Sound}
        super().__init__(shown.get(type(part), type(part))(*part) for part in parts)
        self.tokens, self.logprobs, self.logprob = written.tokens, written.logprobs, written.logprob

    @property
    def text(self) -> str:
        """Its texts, one after another."""
        return "".join(part.text for part in self if isinstance(part, stream.Text))

    def _repr_html_(self) -> str:
        return page.within(page.conversation([stream.Role("model"), *self]))


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained run. Make one with `load`."""

    run: run_lib.Run

    def generate(self, parts: Sequence, **options) -> Answer:
        """Answer one prompt. Raises: InputError when a part or an option cannot be used."""
        return self.generate_many([parts], **options)[0]

    def generate_many(
        self, prompts: Sequence[Sequence], on_tokens: Callable[[int, Int32[np.ndarray, "_"]], object] | None = None,
        on_answer: Callable[[int, Answer], object] | None = None, **options
    ) -> list[Answer]:
        """Answer many prompts at once; a prompt given several times is answered anew each time, and read once.

        `on_tokens(index, tokens)` hears answers as they are written, and stops them by returning True; with
        `best_of`, which chooses among whole answers, it hears no tokens. `on_answer(index, answer)` hears each at its end.
        """
        return self.answer([self.encode(parts) for parts in prompts], options_lib.Options(**options), on_tokens,
                           on_answer=on_answer)

    def score(self, parts: Sequence, answers: Sequence[Sequence | str], **options) -> list[Answer]:
        """Each given answer, parts or a text, and its likelihood after the prompt: the choices of a question."""
        ids = self.encode(parts)
        rules = options_lib.Options(**options).settings(self._patch).rules
        given = [self._documents([answer] if isinstance(answer, str) else answer)[0] for answer in answers]
        rendered = [stream.render(document, self._vocab)[1:] for document in given]
        return [self._show(scored) for scored in
                scoring.score(self.run.model, self._vocab, [ids] * len(rendered), rendered, rules)]

    def chat(self, **options) -> "Chat":
        """A conversation that remembers what was said; `options` hold for every turn."""
        return Chat(self, options)

    def encode(self, parts: Sequence) -> Int32[np.ndarray, "T"]:
        """The ids of a prompt: the user's turn and the mark of the model's."""
        (document,) = self._documents(parts)
        return stream.render([stream.Role("user"), *document, stream.Role("model")], self._vocab, is_prompt=True)

    def answer(
        self, prompts: Sequence[Int32[np.ndarray, "_"]], options: options_lib.Options,
        on_tokens: Callable | None = None, memory: reading.Memory | None = None, on_answer: Callable | None = None,
    ) -> list[Answer]:
        """Answer prompts of ids; see `engine.generate`."""
        run_lib.check_guidance(self.run, options.guidance)
        groups: list[dict[int, engine.Answer]] = [{} for _ in prompts]
        shown: dict[int, Answer] = {}
        name = self._name(options, prompts)

        def keep(index: int, answer: engine.Answer) -> None:
            """Show the best of a prompt's answers once all of them are there."""
            which, place = divmod(index, options.best_of)
            groups[which][place] = answer
            if len(groups[which]) == options.best_of:
                shown[which] = self._best([self._show(groups[which][i]) for i in range(options.best_of)], name)
                if on_answer:
                    on_answer(which, shown[which])

        def heard(index: int, tokens: Int32[np.ndarray, "_"]) -> object:
            return on_tokens(index // options.best_of, tokens[:0])

        drawn = engine.generate(self.run.model, self._vocab, [ids for ids in prompts for _ in range(options.best_of)],
                                options.settings(self._patch), heard if options.best_of > 1 and on_tokens else on_tokens,
                                memory, on_answer and keep)
        for index, answer in enumerate(drawn):
            if index // options.best_of not in shown:  # it was stopped, or nobody listens
                keep(index, answer)
        return [shown[index] for index in range(len(prompts))]

    def _best(self, answers: list[Answer], name: Int32[np.ndarray, "T"]) -> Answer:
        """The likeliest; with a name the one whose last picture, shown and asked about, is most likely called so and no more."""
        drawn = [(answer, pictures[-1]) for answer in answers if (pictures := [part for part in answer if isinstance(part, Picture)])]
        if not len(name) or not drawn:
            return max(answers, key=lambda answer: answer.logprob)
        drawn += drawn[-1:] * (len(answers) - len(drawn))  # as many each time: one compiled program serves them all
        prompts = [self.encode([picture, WHAT]) for _, picture in drawn]
        likely = [scored.logprob for scored in scoring.score(self.run.model, self._vocab, prompts, [name] * len(drawn))]
        return drawn[int(np.argmax(likely))][0]

    def _name(self, options: options_lib.Options, prompts: Sequence[Int32[np.ndarray, "_"]]) -> Int32[np.ndarray, "T"]:
        """The ids of `named` as an answer, none without. Raises: InputError when it cannot choose."""
        if not options.named:
            return np.zeros(0, np.int32)
        name = stream.render(self._documents([stream.Text(options.named)])[0], self._vocab)[1:]
        if len(name) > self.run.model.config.context_tokens // 4:
            raise errors.InputError(f"named: must be a name, at most {self.run.model.config.context_tokens // 4} ids, got {len(name)}")
        if len({prompt.tobytes() for prompt in prompts}) > 1:
            raise errors.InputError(f"named: is of one prompt, got {len(prompts)}; ask them one by one")
        return name

    @property
    def _vocab(self) -> vocabulary.Vocab:
        return self.run.tokenizers.vocab

    @property
    def _patch(self) -> int:
        return self.run.tokenizers.image.config.patch

    def _documents(self, parts: Sequence) -> list[list[stream.EncodedPart]]:
        return self.run.tokenizers.encode_documents([read(parts, self._patch)])

    def _show(self, answer: engine.Answer) -> Answer:
        parts = stream.parse(np.append(np.int32(vocabulary.BOS), answer.tokens), self._vocab)
        return Answer(self.run.tokenizers.decode_parts(parts), answer)


class Chat:
    """Turns in a row. When the context is full the oldest turns are forgotten."""

    def __init__(self, model: Model, options: dict):
        self.model, self.options = model, options
        self.document: stream.Document = []  # all that was said
        self.turns: list[Int32[np.ndarray, "_"]] = []  # the ids that are still remembered
        self.memory = reading.Memory()

    def send(self, parts: Sequence, on_tokens: Callable | None = None, **options) -> Answer:
        """Say something and get the answer; `options` hold for this turn."""
        chosen = options_lib.Options(**self.options | options)
        question = self.model.encode(parts)[1:]  # BOS stands before the first turn only
        context = self.model.run.model.config.context_tokens
        turns = [*self.turns, question]
        while len(turns) > 1 and 1 + sum(map(len, turns)) + min(chosen.max_tokens, context // 2) > context:
            turns.pop(0)
        ids = np.concatenate([[vocabulary.BOS], *turns]).astype(np.int32)
        (answer,) = self.model.answer([ids], chosen, on_tokens, self.memory)
        self.turns = [*turns[:-1], np.concatenate([question, answer.tokens[:-1]])]
        said = read(parts, self.model.run.tokenizers.image.config.patch)
        self.document += [stream.Role("user"), *said, stream.Role("model"), *answer]
        return answer

    def _repr_html_(self) -> str:
        return page.within(page.conversation(self.document))


def load(folder: str | Path, mesh: Mesh | None = None, eight_bit: bool = False) -> Model:
    """A finished run, ready to answer, over a mesh of devices if one is given. Compiled programs are kept for the next time.

    With `eight_bit` the decoder's weights stay in 8 bits, and answers come faster on a CPU (`matmul.py`).
    Raises: InputError when the folder is no run, is unfinished, or mixes vocabularies, or 8 bits cannot be had here.
    """
    run_lib.keep_compiled()
    return Model(run_lib.load(folder, mesh, eight_bit))


def read(parts: Sequence, patch: int) -> stream.Document:
    """Parts of any kind as a document. Raises: InputError when one is none of them, or cannot be read."""
    if isinstance(parts, str | os.PathLike):
        raise errors.InputError(f"parts: must be a list, got {parts!r}; write [{parts!r}]")
    document: stream.Document = []
    for part in parts:
        match part:
            case str() | os.PathLike():
                document += prompt.read([os.fspath(part)], patch)
            case stream.Text() | stream.Image() | stream.Audio() | stream.Video():
                document.append(part)
            case PIL.Image.Image():
                document.append(stream.Image(image_io.fit(part, patch)))
            case np.ndarray() if part.dtype == np.uint8 and part.ndim == 3 and part.shape[2] == 3:
                document.append(stream.Image(image_io.fit(PIL.Image.fromarray(part), patch)))
            case np.ndarray() if part.dtype == np.float32 and part.ndim == 1:
                document.append(stream.Audio(part))
            case _:
                what = f"an array {part.shape} of {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
                raise errors.InputError(f"parts: must be texts, paths, pictures (height, width, 3) of uint8 or samples of "
                                        f"float32, got {what}; convert it")
    return prompt.join(document)
