"""Sums and small programs whose result takes several steps: answered at once, or step by step.

    Start with 17, add 26, double it. Only the result.   86
    Start with 17, add 26, double it. Step by step.      17 + 26 = 43, 43 * 2 = 86, so 86

A problem is only its numbers, so a problem of an evaluation is in training with neither of the two answers.
Facts: chain of thought against answers at once (Gemini report, section 5.1.1).
"""

import re

import numpy as np

from data_prep import questions, splits
from data_prep.emoji_world import World
from gemini_mini.stream import Document, Text

AT_ONCE, IN_STEPS = "Only the result.", "Step by step."
FEWEST_STEPS, MOST_STEPS = 2, 4
LARGEST = 99  # of a number that is given
VARIABLES = "abc"
WORDS = {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"}

Sum = tuple[int, tuple[tuple[str, int], ...]]  # a number, and what is done to it in turn
Program = tuple[tuple[str, int | str, str, int], ...]  # lines (variable, number or variable, operation, number)


def draw_sum(world: World, rng: np.random.Generator) -> Sum:
    value = first = int(rng.integers(1, LARGEST + 1))
    steps = []
    for _ in range(int(rng.integers(FEWEST_STEPS, MOST_STEPS + 1))):
        operation, number = _step(value, rng)
        steps.append((operation, number))
        value = _apply(value, operation, number)
    return first, tuple(steps)


def ask_sum(problem: Sum, is_in_steps: bool) -> tuple[Document, Document]:
    """The question, and the answer at once or step by step."""
    value, steps = problem
    told = ", ".join([f"Start with {value}", *(WORDS[operation].format(number) for operation, number in steps)])
    shown = []
    for operation, number in steps:
        result = _apply(value, operation, number)
        shown.append(f"{value} {operation} {number} = {result}")
        value = result
    return _asked(f"{told}.", shown, value, is_in_steps)


def draw_program(world: World, rng: np.random.Generator) -> Program:
    values: dict[str, int] = {}
    lines: list[tuple[str, int | str, str, int]] = []
    for number in range(int(rng.integers(FEWEST_STEPS, MOST_STEPS + 1)) + 1):
        known = sorted(values)
        target = VARIABLES[int(rng.integers(len(VARIABLES)))]
        if not known or number == 1 and rng.random() < 0.3:
            value = int(rng.integers(1, LARGEST + 1))
            lines.append((target, value, "", 0))
        else:
            source = known[int(rng.integers(len(known)))]
            operation, operand = _step(values[source], rng)
            value = _apply(values[source], operation, operand)
            lines.append((target, source, operation, operand))
        values[target] = value
    return tuple(lines)


def ask_program(problem: Program, is_in_steps: bool) -> tuple[Document, Document]:
    """What does it print: the last variable that was set."""
    values: dict[str, int] = {}
    code, shown = [], []
    for target, source, operation, operand in problem:
        value = _apply(values[source], operation, operand) if operation else source
        code.append(f"{target} = {source} {operation} {operand}" if operation else f"{target} = {source}")
        steps = f"{values[source]} {operation} {operand} = {value}" if operation else f"{value}"
        shown.append(f"{target} = {steps}")
        values[target] = value
    printed = problem[-1][0]
    return _asked("\n".join([*code, f"print({printed})", "What does it print?"]), shown, values[printed], is_in_steps)


def result_of(text: str) -> str:
    """The last number of an answer, "" without any."""
    return ([""] + re.findall(r"-?\d+", text))[-1]


def _asked(told: str, shown: list[str], value: int, is_in_steps: bool) -> tuple[Document, Document]:
    answer = f"{', '.join(shown)}, so {value}" if is_in_steps else str(value)
    return [Text(f"{told} {IN_STEPS if is_in_steps else AT_ONCE}")], [Text(answer)]


def _step(value: int, rng: np.random.Generator) -> tuple[str, int]:
    """An operation whose result is no less than 0 and has three digits at most."""
    kind = rng.random()
    if kind < 0.2 and value * 3 <= 999:
        return "*", int(rng.integers(2, 4))
    number = int(rng.integers(1, LARGEST + 1))
    if value + number > 999 or kind < 0.55 and value:
        return "-", min(number, value)
    return "+", number


def _apply(value: int, operation: str, number: int) -> int:
    return {"+": value + number, "-": value - number, "*": value * number}[operation]


def _show(ask, problem) -> list[tuple[Document, Document]]:
    """In half of the problems step by step."""
    return [ask(problem, bool(splits.bucket(f"steps {problem!r}", 2)))]


SUMS = questions.Generator(draw_sum, lambda world, problem: _show(ask_sum, problem), num_documents=6_000)
PROGRAMS = questions.Generator(draw_program, lambda world, problem: _show(ask_program, problem), num_documents=6_000)
