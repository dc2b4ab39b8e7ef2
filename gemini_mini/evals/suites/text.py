"""Text alone: how well it is foreseen, per language and for code.

The tasks of others run through ../harness.py.
Asked of the test split, names of all their test splits; with --valid-only of valid, and of its like.
Facts: bits per byte do not depend on the text tokenizer, so figures of different vocabularies compare.
"""

import re

import numpy as np

from gemini_mini import stream
from gemini_mini.evals import task

TEXT_DOCUMENTS = 60  # of prose, of code and of names in each language
CHOICES, SHORTEST_CHARS, HALF_CHARS = 4, 160, 240  # of continuations; a text that is cut in two; a half of it


def _bits(exam: task.Exam) -> dict:
    """Bits per byte of text not trained on: English prose, code, and names of things in other languages."""
    world, split = exam.world, exam.settings.held_out
    kinds = {kind: [(of, text) for of, text, _ in written] for kind, written in (("en", world.prose), ("code", world.code))}
    for lang in world.config.languages[1:]:
        kinds[lang] = [(of, item.names[lang]) for item in world.items if (of := item.name_splits.get(lang))]
    splits = {}
    for kind, texts in kinds.items():
        held = [text for of, text in texts if of.startswith(split)]  # names have several splits of either sort
        train = "".join(text for of, text in texts if of == "train").encode()
        held = [held[i] for i in np.random.default_rng(exam.settings.seed).permutation(len(held))[:TEXT_DOCUMENTS]]
        if held:
            judged = [task.Judged(bits, num_bytes) for bits, num_bytes in exam.model.bits(held)]
            splits[f"{split}: {kind}"] = {
                **task.cell(judged, True, 8.0, byte_bits("".join(held).encode(), train), "each text by itself",
                            sampling="none: what is given is foreseen"), "examples": []}
    return {"is_error": True, "unit": "bits per byte",
            "baseline_title": "frequencies of single bytes in training text", "splits": splits}


def byte_bits(held: bytes, train: bytes) -> float:
    """Bits per byte under the training frequencies of single bytes, each counted once more."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1
    surprise = np.log2(counts.sum()) - np.log2(counts)
    return float(np.mean(surprise[np.frombuffer(held, np.uint8)]))


def _continuations(exam: task.Exam) -> dict:
    """Which of four texts goes on where a held-out one stops? The likeliest for each of its bytes."""
    split, splits = exam.settings.held_out, {}
    for kind, written in (("prose", exam.world.prose), ("code", exam.world.code)):
        held = [text for of, text, _ in written if of == split and len(text) >= SHORTEST_CHARS]
        cuts = [(text[: len(text) // 2][-HALF_CHARS:], text[len(text) // 2 :][:HALF_CHARS]) for text in held]
        rng = np.random.default_rng(exam.settings.seed)
        order = rng.permutation(len(cuts))[: exam.settings.limit]
        if len(cuts) <= CHOICES:
            continue
        # The true one stands anywhere: were it first, a tie would be right.
        offered = [rng.permutation([i, *rng.permutation(np.delete(np.arange(len(cuts)), i))[: CHOICES - 1]]) for i in order]
        asked = [(cuts[i][0], [cuts[j][1] for j in choices]) for i, choices in zip(order, offered)]
        true = [int(np.flatnonzero(choices == i)[0]) for i, choices in zip(order, offered)]
        scores = exam.model.scores([[stream.Text(begun)] for begun, choices in asked for _ in choices],
                                   [[stream.Text(choice)] for _, choices in asked for choice in choices])
        lengths = [len(choice.encode()) for _, choices in asked for choice in choices]
        chosen = np.argmax((np.array(scores) / lengths).reshape(-1, CHOICES), axis=1)
        easy = [np.argmax([_shared(begun, choice) for choice in choices]) for begun, choices in asked]
        judged, guessed = ([task.Judged(float(i == at), 1.0) for i, at in zip(found, true)] for found in (chosen, easy))
        splits[f"{split}: {kind}"] = {
            **task.cell(judged, False, 1 / CHOICES, task.figure(guessed, False)["value"], asked[0][0], sampling="none: the likeliest per byte"),
            "examples": [{"lang": "", "prompt": exam.album.add([stream.Text(begun)]), "truth": exam.album.add([stream.Text(choices[at])]),
                          "answer": exam.album.add([stream.Text(choices[i])]), "score": j.score, "weight": 1.0, "is_right": i == at}
                         for (begun, choices), i, at, j in zip(asked, chosen.tolist(), true, judged)]}
    return {"is_error": False, "unit": "accuracy",
            "baseline_title": "the one that shares most of its words with the beginning", "splits": splits}


def _shared(begun: str, choice: str) -> float:
    """The share of a text's words that stand in its beginning too."""
    words = re.findall(r"\w+", choice)
    return sum(word in begun for word in words) / max(1, len(words))


SUITE = task.Suite("text foreseen", (
    task.Measure("text", "text never seen (en: prose; other languages: names)", _bits),
    task.Measure("continuation", "which of four continuations is the true one", _continuations),
))
