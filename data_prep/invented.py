"""Languages that nobody speaks: each with its own words and order, told in the prompt, then to be spoken.

    cat = mopa, dog = tiru, sees = belo, big = ruma. The verb comes first, then subject, then object.
    Adjectives follow their noun.
    the big cat sees the dog  ->  belo mopa ruma tiru

A language is drawn anew for each problem, so nothing of it can be learned but from the prompt. Where the
grammar is not told, worked examples have to show it.
Facts: a language of few speakers from a grammar, a dictionary and sentences in the context (Gemini 1.5 Pro).
"""

import itertools
from typing import NamedTuple

import numpy as np

from data_prep import questions
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Text

NOUNS = ("cat", "dog", "fish", "bird", "horse", "king", "child", "bear", "snake", "teacher")
VERBS = ("sees", "likes", "helps", "follows", "finds", "carries")
ADJECTIVES = ("big", "small", "old", "new", "good", "red")
NUM_NOUNS, NUM_VERBS, NUM_ADJECTIVES = 4, 2, 2  # that a language has
MOST_SHOTS = 8
SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")
ORDERS = tuple(itertools.permutations(("subject", "verb", "object")))
NUM_GRAMMARS = 2 * len(ORDERS)  # an adjective first or last


class Sentence(NamedTuple):
    """English words; "" where there is no adjective."""

    subject: str
    subject_adjective: str
    verb: str
    object: str
    object_adjective: str

    @property
    def english(self) -> str:
        nouns = [" ".join(filter(None, ("the", adjective, noun))) for adjective, noun in
                 ((self.subject_adjective, self.subject), (self.object_adjective, self.object))]
        return f"{nouns[0]} {self.verb} {nouns[1]}"


class Problem(NamedTuple):
    """A language, worked examples, and the sentence to say in it."""

    dictionary: tuple[tuple[str, str], ...]  # English word, word
    order: tuple[str, str, str]
    is_adjective_last: bool
    is_grammar_told: bool
    num_shots: int  # that are shown
    shots: tuple[Sentence, ...]
    asked: Sentence


def draw(world: World, rng: np.random.Generator) -> Problem:
    chosen = [[words[i] for i in rng.permutation(len(words))[:count]]
              for words, count in ((NOUNS, NUM_NOUNS), (VERBS, NUM_VERBS), (ADJECTIVES, NUM_ADJECTIVES))]
    places = rng.choice(len(SYLLABLES) ** 2, NUM_NOUNS + NUM_VERBS + NUM_ADJECTIVES, replace=False)
    words = [SYLLABLES[place // len(SYLLABLES)] + SYLLABLES[place % len(SYLLABLES)] for place in places]
    sentences: list[Sentence] = []
    while len(sentences) < MOST_SHOTS + 1:
        sentence = _sentence(*chosen, rng)
        sentences += [sentence] * (sentence not in sentences)
    return Problem(tuple(zip(itertools.chain(*chosen), words)), ORDERS[int(rng.integers(len(ORDERS)))], bool(rng.integers(2)),
                   bool(rng.integers(2)), int(rng.integers(MOST_SHOTS + 1)), tuple(sentences[1:]), sentences[0])


def show(world: World, problem: Problem) -> list[tuple[Document, Document]]:
    told = ", ".join(f"{english} = {word}" for english, word in problem.dictionary) + "."
    if problem.is_grammar_told:
        told += (f" The order is {', '.join(problem.order)}. Adjectives "
                 f"{'follow' if problem.is_adjective_last else 'precede'} their noun.")
    turns = [([Text(sentence.english)], [Text(say(problem, sentence))])
             for sentence in (*problem.shots[: problem.num_shots], problem.asked)]
    (first,), answer = turns[0]
    return [([Text(f"{told}\n{first.text}")], answer), *turns[1:]]


def say(problem: Problem, sentence: Sentence) -> str:
    """The sentence in the language of the problem."""
    words = dict(problem.dictionary)

    def noun(name: str, adjective: str) -> list[str]:
        pair = [words[name], words[adjective]] if adjective else [words[name]]
        return pair if problem.is_adjective_last else pair[::-1]

    parts = {"subject": noun(sentence.subject, sentence.subject_adjective), "verb": [words[sentence.verb]],
             "object": noun(sentence.object, sentence.object_adjective)}
    return " ".join(word for role in problem.order for word in parts[role])


def word_for_word(problem: Problem) -> str:
    """The asked sentence in the order of English: what a dictionary alone can say."""
    return say(problem._replace(order=("subject", "verb", "object"), is_adjective_last=False), problem.asked)


def _sentence(nouns: list[str], verbs: list[str], adjectives: list[str], rng: np.random.Generator) -> Sentence:
    subject = int(rng.integers(len(nouns)))
    thing = (subject + int(rng.integers(1, len(nouns)))) % len(nouns)
    first, second = (["", *adjectives][max(0, i)] for i in rng.integers(1 - len(adjectives), len(adjectives) + 1, 2))
    return Sentence(nouns[subject], first, verbs[int(rng.integers(len(verbs)))], nouns[thing], second)


INVENTED = questions.Generator(draw, show, num_documents=4_000)
