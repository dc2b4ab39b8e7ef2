"""Something small in something long, and a question about it: in text, in a clip, in speech.

    retrieval      pairs of words and numbers within prose, then: what is the number of the cat?
    video_needle   two frames show other things: at which second is one of them?
    audio_needle   words said one after another, each in its own second: at which second is the cat?

`sized` sets how much stands around the needle and how deep in it lies; training draws both at random.
Facts: key-value pairs, filler, query (Gemini report, section 5.1.5); needles in text, audio and video
answered by a time (Gemini 1.5 Pro).
"""

from typing import NamedTuple

import numpy as np

from data_prep import questions, splits
from data_prep.emoji_world import World
from gemini_mini import stream
from gemini_mini.stream import Document, Text

FEWEST_PAIRS, MOST_PAIRS, MOST_ASKED = 2, 16, 4
BARE_SHARE = 0.5  # of training documents: pairs without prose, each of which is asked
RECITED_SHARE = 0.5  # of those: all pairs are said once more
SHORTEST_CHARS, LONGEST_CHARS = 8, 6_000  # of prose around the pairs
MOST_FRAMES, MOST_WORDS, MORE_WORDS = 64, 48, 300
ASK_NUMBER, ASK_ALL = "What is the number of {}?", "Say all of them."
TOLD = "{} {}"  # and answered so: to look up is to copy what stood behind the same word
ASK_SEEN = "At which second is the {}?"
ASK_SAID = "At which second is {!r} said?"


class Pairs(NamedTuple):
    """Words with their numbers, `before` and `after` so many characters of prose, which begin at document `start`."""

    pairs: tuple[tuple[str, int], ...]
    asked: tuple[int, ...]  # which pairs, in turn
    is_recited: bool  # all pairs are said at the end
    before: int
    after: int
    start: int


class Frames(NamedTuple):
    """`size` frames, a second each, of the first frame of shot `hay`; those of shots `needle` and `other` at seconds `at` and `other_at`.

    The other is not asked for: what is found is what was named, not whatever differs.
    """

    hay: int
    needle: int
    other: int
    size: int
    at: int
    other_at: int


class Words(NamedTuple):
    """English clips one after another, each at the beginning of a second; which one is asked for; more for longer sounds."""

    clips: tuple[int, ...]
    at: int
    more: tuple[int, ...]


def draw_pairs(world: World, rng: np.random.Generator) -> Pairs:
    words = sorted({item.names["en"] for item in world.items if item.name_splits.get("en") == "train"
                    and item.names["en"].isalpha()})
    size = min(int(rng.integers(FEWEST_PAIRS, MOST_PAIRS + 1)), len(words))
    keys = [words[i] for i in rng.permutation(len(words))[:size]]
    values = [int(value) for value in 10 + rng.permutation(90)[:size]]
    asked = [int(i) for i in rng.permutation(size)]
    chars, depth = int(np.exp(rng.uniform(np.log(SHORTEST_CHARS), np.log(LONGEST_CHARS)))), float(rng.random())
    is_bare, is_recited = rng.random() < BARE_SHARE, bool(rng.random() < RECITED_SHARE)
    pairs, start = tuple(zip(keys, values)), int(rng.integers(1 << 20))
    if is_bare:
        return Pairs(pairs, tuple(asked), is_recited, 0, 0, start)
    return size_pairs(Pairs(pairs, tuple(asked[:MOST_ASKED]), False, 0, 0, start), chars, depth)


def size_pairs(problem: Pairs, chars: int, depth: float) -> Pairs:
    """With `chars` of prose, of which the share `depth` stands before the pairs."""
    before = round(chars * depth)
    return problem._replace(before=before, after=chars - before)


def show_pairs(world: World, problem: Pairs) -> list[tuple[Document, Document]]:
    book = _prose(world, problem.start, problem.before + problem.after)
    listed = "\n".join(TOLD.format(*pair) for pair in problem.pairs)
    texts = [book[: problem.before], f"Remember these numbers.\n{listed}", book[problem.before :]]
    turns = [(ASK_NUMBER.format(problem.pairs[i][0]), TOLD.format(*problem.pairs[i])) for i in problem.asked]
    (asked, told), *others = [*turns, (ASK_ALL, listed)] if problem.is_recited else turns
    first = "\n\n".join([*filter(str.strip, texts), asked])
    return [([Text(question)], [Text(answer)]) for question, answer in ((first, told), *others)]


def _prose(world: World, start: int, chars: int) -> str:
    """So many characters of training prose, from the so-manieth document on, around its end."""
    texts = [text for split, text, _ in world.prose if split == "train"]
    found, length = [], 0
    while length < chars:
        found.append(texts[start % len(texts)])
        length += len(found[-1]) + 1
        start += 1
    return "\n".join(found)[:chars]


def last_number(problem: Pairs) -> str:
    """An answer without looking: the number that was told last."""
    return TOLD.format(problem.pairs[problem.asked[0]][0], problem.pairs[-1][1])


def middle(problem: Frames | Words) -> str:
    """An answer without looking: the middle of it."""
    return _time((problem.size if isinstance(problem, Frames) else len(problem.clips)) // 2)


def draw_frames(world: World, rng: np.random.Generator) -> Frames:
    of_item = {world.shots[i].item: i for i in rng.permutation([i for i, shot in enumerate(world.shots) if shot.split == "train"]).tolist()}
    hay, needle, other = (of_item[item] for item in rng.choice(list(of_item), 3, replace=False).tolist())
    size = _log_uniform(rng, 3, MOST_FRAMES)
    at, other_at = rng.choice(size, 2, replace=False).tolist()
    return Frames(hay, needle, other, size, at, other_at)


def size_frames(problem: Frames, size: int, depth: float) -> Frames:
    """Of `size` frames, the needle at about the share `depth` of them."""
    at = _place(problem, size, depth)
    return problem._replace(size=size, at=at, other_at=(at + 1 + splits.bucket(f"other {problem!r}", size - 1)) % size)


def show_frames(world: World, problem: Frames) -> list[tuple[Document, Document]]:
    frames = np.repeat(np.asarray(world.frames[problem.hay])[:1], problem.size, axis=0)
    for shot, at in ((problem.needle, problem.at), (problem.other, problem.other_at)):
        frames[at] = world.frames[shot][0]
    clip = stream.Video(frames, np.arange(problem.size, dtype=np.float32))
    name = world.items[world.shots[problem.needle].item].names["en"]
    return [([clip, Text(ASK_SEEN.format(name))], [Text(_time(problem.at))])]


def draw_words(world: World, rng: np.random.Generator) -> Words:
    by_item = {world.clips[clip].item: clip for clip in rng.permutation(_spoken(world))}  # one clip for each word
    clips = list(by_item.values())
    size = min(_log_uniform(rng, 2, MOST_WORDS), len(clips))
    chosen = [int(clips[i]) for i in rng.permutation(len(clips))[: size + MORE_WORDS]]
    return Words(tuple(chosen[:size]), int(rng.integers(size)), tuple(chosen[size:]))


def size_words(problem: Words, size: int, depth: float) -> Words:
    """Of `size` words, the asked one at about the share `depth` of them; others come again where there are not enough."""
    needle = problem.clips[problem.at]
    hay = [clip for clip in (*problem.clips, *problem.more) if clip != needle] or [needle]
    at = _place(problem, size, depth)
    clips = [hay[i % len(hay)] for i in range(size)]
    clips[at] = needle
    return Words(tuple(clips), at, problem.more)


def show_words(world: World, problem: Words) -> list[tuple[Document, Document]]:
    sounds = []
    for clip in problem.clips:
        samples = world.sound(clip).samples
        sounds.append(np.pad(samples, (0, -len(samples) % stream.SAMPLE_RATE_HZ)))
    start = sum(map(len, sounds[: problem.at])) // stream.SAMPLE_RATE_HZ
    name = world.items[world.clips[problem.clips[problem.at]].item].names["en"]
    return [([stream.Audio(np.concatenate(sounds)), Text(ASK_SAID.format(name))], [Text(_time(start))])]


def _spoken(world: World) -> list[int]:
    return [clip for clip in world.clips_in("train") if world.clips[clip].lang == "en"]


def _place(problem: Frames | Words, size: int, depth: float) -> int:
    """Near the share `depth` of `size`, up to an eighth away: else one answer would be right for a whole cell."""
    place = abs(depth + (splits.bucket(f"place {problem!r}", 1_001) / 1_000 - 0.5) / 4)
    return round(min(place, 2 - place) * (size - 1))


def _log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def _time(second: int) -> str:
    return f"{second // 60:02d}:{second % 60:02d}"


RETRIEVAL = questions.Generator(draw_pairs, show_pairs, num_documents=12_000)
VIDEO = questions.Generator(draw_frames, show_frames, num_documents=400)
AUDIO = questions.Generator(draw_words, show_words, num_documents=300)
