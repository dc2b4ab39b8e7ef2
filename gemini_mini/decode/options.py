"""What a person may ask of an answer, in one flat set of names: the command line and the notebook share it."""

import dataclasses
from collections.abc import Mapping

from gemini_mini import errors, vocab as vocabulary
from gemini_mini.decode import engine, grammar, sampling

MODALITIES = ("text", "image", "audio", "video")


@dataclasses.dataclass(frozen=True)
class Options:
    """How to answer; `text`, `image` and `audio` change the first five for one modality, by name."""

    temperature: float | int = 0.8  # 0: always the likeliest; 1: the model's own odds
    top_k: int = 0  # draw among the K likeliest tokens; 0: all
    top_p: float | int = 0.95  # draw among the likeliest tokens that make up P
    min_p: float | int = 0.0  # draw among tokens at least P times as likely as the likeliest
    repetition_penalty: float | int = 1.0  # above 1: what the answer holds already becomes less likely
    text: Mapping[str, float | int] = dataclasses.field(default_factory=dict)
    image: Mapping[str, float | int] = dataclasses.field(default_factory=dict)
    audio: Mapping[str, float | int] = dataclasses.field(default_factory=dict)
    guidance: float | int = 1.0  # above 1: pictures follow the words more closely, at twice the cost
    modalities: tuple[str, ...] = ("text", "image")  # what the answer may hold
    image_size: str = ""  # of drawn pictures, "WIDTHxHEIGHT" in pixels; empty: the model decides
    max_tokens: int = 512  # longest answer
    best_of: int = 1  # answers to draw, of which the likeliest is given
    named: str = ""  # of them rather the one whose picture the model itself would most likely name so
    seed: int = 0  # another seed, another answer

    def __post_init__(self):
        if self.best_of < 1:
            raise errors.InputError(f"best_of: must be at least 1, got {self.best_of}")
        if self.named and not self.named.strip():
            raise errors.InputError(f"named: must be words, got {self.named!r}")
        if self.named and self.best_of == 1:
            raise errors.InputError(f"named: chooses among several answers; set best_of to 2 or more with it, got {self.named!r} and 1")
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            raise errors.InputError(f"modalities: must be some of {', '.join(MODALITIES)}, "
                                    f"got {', '.join(self.modalities)!r}")
        self._settings(grammar.Rules())  # what can be refused without a model is refused at once

    def settings(self, patch: int) -> engine.Settings:
        """The sampler's settings for codes of `patch` pixels a side. Raises: InputError on a bad size."""
        return self._settings(self._rules(patch))

    def _settings(self, rules: grammar.Rules) -> engine.Settings:
        return engine.Settings(self._sampling("text"), self._sampling("image"), self._sampling("audio"), self.guidance,
                               rules, self.max_tokens, self.seed)

    def _sampling(self, modality: str) -> sampling.Sampling:
        kinds = {field.name: type(field.default) for field in dataclasses.fields(sampling.Sampling)}
        changed = getattr(self, modality)
        if unknown := sorted(set(changed) - set(kinds)):
            raise errors.InputError(f"{modality}: must be some of {', '.join(kinds)}, got {', '.join(unknown)}")
        for name, value in changed.items():
            if kinds[name] is int and value != value // 1:
                raise errors.InputError(f"{modality}: {name} must be a whole number, got {value}")
        return sampling.Sampling(**{name: kind(changed.get(name, getattr(self, name))) for name, kind in kinds.items()})

    def _rules(self, patch: int) -> grammar.Rules:
        may = {f"has_{plural}": name in self.modalities
               for name, plural in zip(MODALITIES, ("text", "images", "audio", "video"), strict=True)}
        if not self.image_size:
            return grammar.Rules(**may)
        width, _, height = self.image_size.lower().partition("x")
        most = vocabulary.MAX_SIZE * patch
        if not (width.isdecimal() and height.isdecimal()
                and all(patch <= int(side) <= most and int(side) % patch == 0 for side in (width, height))):
            raise errors.InputError(f"image size: must be WIDTHxHEIGHT, both multiples of {patch} from {patch} to {most}, "
                                    f"got {self.image_size!r}; for example {8 * patch}x{8 * patch}")
        return grammar.Rules(**may, heights=(int(height) // patch,), widths=(int(width) // patch,))
