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
    """Bits per byte of text not trained on: English prose, code, and names of things in other languages; that text comes is given."""
    world, split = exam.world, exam.settings.held_out
    kinds = {kind: [(of, text) for of, text, _ in written] for kind, written in (("en", world.prose), ("code", world.code))}
    for lang in world.config.languages[1:]:
        kinds[lang] = [(of, item.names[lang]) for item in world.items if (of := item.name_splits.get(lang))]
    splits = {}
    for kind, texts in kinds.items():
        held = [text for of, text in texts if of.startswith(split)]  # names have several splits of either sort
        train = [text for of, text in texts if of == "train"]
        held = [held[i] for i in np.random.default_rng(exam.settings.seed).permutation(len(held))[:TEXT_DOCUMENTS]]
        if held:
            judged = [task.Judged(bits, num_bytes) for bits, num_bytes in exam.model.bits(held)]
            splits[f"{split}: {kind}"] = {
                **task.cell(judged, True, 8.0, ngram_bits(held, train), "each text by itself",
                            sampling="none: what is given is foreseen"), "examples": []}
    return {"is_error": True, "unit": "bits per byte",
            "baseline_title": "n-grams of up to five bytes of the same training text", "splits": splits}


def ngram_bits(held: list[str], train: list[str], most_before: int = 4) -> float:
    """Bits per byte of texts, each by itself, under byte n-grams of the training texts, by Witten-Bell interpolation.

    Chances given no byte before to those given `most_before`, each mixed with those of one less by how many different
    bytes have followed there; four is best on valid (two and six are worse). Paper: Witten and Bell 1991, "The zero-frequency problem", method C.
    """
    def followed(texts: list[str], before: int) -> tuple[np.ndarray, np.ndarray]:
        """What stands before each byte as one number, and with the byte; 0 is the beginning."""
        padded = [np.concatenate([np.zeros(before, np.uint64), np.frombuffer(text.encode(), np.uint8).astype(np.uint64) + 1]) for text in texts]
        context = np.concatenate([sum((x[i : len(x) - before + i] * np.uint64(257 ** (before - 1 - i)) for i in range(before)),
                                      np.zeros(len(x) - before, np.uint64)) for x in padded])
        return context, context * np.uint64(257) + np.concatenate([x[before:] for x in padded])

    def counted(values: np.ndarray, asked: np.ndarray) -> np.ndarray:
        distinct, counts = np.unique(values, return_counts=True)
        place = np.minimum(np.searchsorted(distinct, asked), len(distinct) - 1)
        return np.where(distinct[place] == asked, counts[place], 0)

    chance: np.ndarray | float = 1 / 256
    for before in range(most_before + 1):
        (contexts, pairs), (asked, asked_pairs) = followed(train, before), followed(held, before)
        seen, kinds = counted(contexts, asked), counted(np.unique(pairs) // np.uint64(257), asked)
        mixed = (counted(pairs, asked_pairs) + kinds * chance) / np.maximum(seen + kinds, 1)
        chance = np.where(seen > 0, mixed, chance)
    return float(-np.mean(np.log2(chance)))


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
