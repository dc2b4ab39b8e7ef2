"""Text alone: how well it is foreseen, per language and for code.

Facts: bits per byte do not depend on the text tokenizer, so figures of different vocabularies compare.
"""

import numpy as np

from gemini_mini.evals import task

TEXT_DOCUMENTS = 60  # of prose, of code and of names in each language


def _bits(exam: task.Exam) -> dict:
    """Bits per byte of text not trained on: English prose, code, and names of things in other languages."""
    world, settings = exam.world, exam.settings
    kinds = {"en": world.prose, "code": world.code}
    held_out = [split for split in ("valid", "test_concept", "test_compose", "test_lang") if settings.allows(split)]
    for lang in world.config.languages[1:]:
        kinds[lang] = [("valid" if split in held_out else split, item.names[lang])
                       for item in world.items if (split := item.name_splits.get(lang))]
    splits = {}
    for kind, texts in kinds.items():
        held = [text for split, text in texts if split == "valid"]
        train = "".join(text for split, text in texts if split == "train").encode()
        held = [held[i] for i in np.random.default_rng(settings.seed).permutation(len(held))[:TEXT_DOCUMENTS]]
        if held:
            bits, num_bytes = exam.model.bits(held)
            splits[kind] = {"value": bits / num_bytes, "low": None, "high": None, "n": len(held), "chance": 8.0,
                            "baseline": byte_bits("".join(held).encode(), train), "prompt": "each text by itself",
                            "shots": 0, "sampling": "none: what is given is foreseen", "samples": 1, "examples": []}
    return {"title": "text never seen (en: prose; other languages: names)", "is_error": True, "unit": "bits per byte",
            "baseline_title": "frequencies of single bytes in training text", "splits": splits}


def byte_bits(held: bytes, train: bytes) -> float:
    """Bits per byte under the training frequencies of single bytes, each counted once more."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=256) + 1
    surprise = np.log2(counts.sum()) - np.log2(counts)
    return float(np.mean(surprise[np.frombuffer(held, np.uint8)]))


SUITE = task.Suite("text foreseen", (task.Measure("text", "bits per byte of text never seen", _bits),))
