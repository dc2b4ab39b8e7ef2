"""A run behind the interface of the lm-evaluation-harness, so that its tasks can be asked where they can be had.

    pip install 'gemini_mini[harness]'
    python -m gemini_mini.evals.harness runs/demo --tasks arc_easy --limit 100
    python -m gemini_mini.evals.harness runs/demo --tasks mine --include folder/of/yaml --chat
    python -m gemini_mini.evals.harness released/laptop.safetensors --tasks arc_easy --out evals/laptop

Writes RUN/evals/harness.json, of a released file OUT/evals/harness.json.

Multiple choice is by likelihood: each answer is scored after the question (decode/scoring.py), none is sampled. With
--chat the question is the user's and the answer the model's, as in training; else both are plain text.
Source: https://github.com/EleutherAI/lm-evaluation-harness, lm_eval.api.model.LM (0.4).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from gemini_mini import errors, files, memory, vocab as vocabulary
from gemini_mini import run as run_lib
from gemini_mini.decode import engine, sampling, scoring

try:
    import lm_eval
    from lm_eval.api import model as harness_model
    from lm_eval.tasks import TaskManager
    Base = harness_model.LM
except ImportError:
    lm_eval = None
    Base = object

BATCH_ROWS = 32
MOST_TOKENS = 128  # of a free answer, where the task does not say


class HarnessModel(Base):
    """What the harness asks of a model: likelihoods of texts, and greedy answers."""

    def __init__(self, run: run_lib.Run, is_chat: bool = False):
        super().__init__()
        self.run, self.is_chat = run, is_chat
        self.context_tokens = run.model.config.context_tokens

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, whether a greedy answer begins with it) of each (context, continuation)."""
        pairs = [self._pair(*request.args) for request in requests]
        scored = iter(self._score([pair for pair in pairs if len(pair[1])]))
        prompts, answers = zip(*pairs) if pairs else ((), ())
        longest = max(map(len, answers), default=0)
        greedy = engine.generate(self.run.model, self.run.tokenizers.vocab, prompts, engine.Settings(
            text=sampling.GREEDY, image=sampling.GREEDY, audio=sampling.GREEDY, max_tokens=longest + 1, batch_rows=BATCH_ROWS))
        return [(next(scored) if len(answer) else 0.0, bool(np.array_equal(said.tokens[: len(answer)], answer)))
                for said, answer in zip(greedy, answers, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-likelihood of each text; a long one in pieces, each after the half of a context before it."""
        half, begin, pairs, owners = self.context_tokens // 2, [vocabulary.BOS], [], []
        for owner, request in enumerate(requests):
            ids = self.run.tokenizers.text.encode(request.args[0]) + self.run.tokenizers.vocab.text_start
            for at in range(0, len(ids), half - 1):
                before = ids[max(0, at - half + 1) : at]
                pairs.append((np.concatenate([begin, before]).astype(np.int32), ids[at : at + half - 1].astype(np.int32)))
                owners.append(owner)
        totals = np.zeros(len(requests))
        np.add.at(totals, np.array(owners, int), self._score(pairs))
        return totals.tolist()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The greedy answer to each (context, settings), up to the first of the settings' `until`."""
        texts = []
        for request in requests:
            context, settings = request.args
            most = min(settings.get("max_gen_toks", MOST_TOKENS), self.context_tokens // 2)
            prompt, _ = self._pair(context, "", most)
            (answer,) = engine.generate(self.run.model, self.run.tokenizers.vocab, [prompt], engine.Settings(
                text=sampling.GREEDY, image=sampling.GREEDY, audio=sampling.GREEDY, max_tokens=most))
            if self.is_chat:
                said = self._text(answer.tokens)
            else:  # a text may go on within a word, so both are decoded together
                said = self._text(np.concatenate([prompt, answer.tokens]))[len(self._text(prompt)) :]
            until = settings.get("until") or []
            for mark in filter(None, [until] if isinstance(until, str) else until):
                said = said.split(mark)[0]
            texts.append(said)
        return texts

    def _text(self, ids: Int32[np.ndarray, "_"]) -> str:
        """The pieces of text among some ids."""
        vocab = self.run.tokenizers.vocab
        return self.run.tokenizers.text.decode(ids[vocab.modality_of(ids) == vocabulary.TEXT] - vocab.text_start)

    def _score(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
        """Log-likelihood of each answer after its prompt."""
        prompts, answers = zip(*pairs) if pairs else ((), ())
        return [found.logprob for found in scoring.score(
            self.run.model, self.run.tokenizers.vocab, prompts, answers, batch_rows=BATCH_ROWS)]

    def _pair(self, context: str, continuation: str, room: int = 0) -> tuple[Int32[np.ndarray, "_"], Int32[np.ndarray, "_"]]:
        """Ids of prompt and answer; where both with `room` are too long, the prompt loses its beginning, then the answer."""
        encode, start = self.run.tokenizers.text.encode, self.run.tokenizers.vocab.text_start
        if self.is_chat:  # the harness sets a space before a choice; an answer begins without one, as in training
            continuation = continuation.lstrip(" ")
        before, after = encode(context), encode(continuation)
        if not self.is_chat:  # a word that begins in one and ends in the other is one piece, as in training
            whole = encode(context + continuation)
            if np.array_equal(whole[: len(before)], before):
                after = whole[len(before) :]
        roles = ([vocabulary.USER], [vocabulary.MODEL]) if self.is_chat else ([], [])
        most = self.context_tokens - 2 - len(roles[0]) - len(roles[1])  # beside BOS and one id that is written
        after = after[max(0, len(after) - most) :]
        kept = max(0, most - len(after) - max(room - 1, 0))
        before = before[max(0, len(before) - kept) :]
        prompt = np.concatenate([[vocabulary.BOS], roles[0], before + start, roles[1]]).astype(np.int32)
        return prompt, (after + start).astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder that train.py finished, or a released file")
    parser.add_argument("--out", type=Path, help="where to write the figures of a released file; those of a run stand in its folder")
    parser.add_argument("--tasks", required=True, help="names of the harness, with commas")
    parser.add_argument("--include", type=Path, help="a folder of further tasks in YAML")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int, help="most questions of a task")
    parser.add_argument("--chat", action="store_true", help="the question is the user's, the answer the model's")
    args = parser.parse_args()
    if args.run.is_file() and not args.out:
        raise errors.InputError(f"{args.run}: is a released file, and does not say where figures go; give --out")
    if args.out and not args.run.is_file():
        raise errors.InputError(f"--out: is for a released file, and {args.run} is none; its figures stand in the run folder")
    if args.include and not args.include.is_dir():
        raise errors.InputError(f"--include: {args.include} is no folder; give one that holds tasks in YAML")
    if lm_eval is None:
        raise errors.InputError("the harness is not installed; run: pip install 'gemini_mini[harness]'")
    found = lm_eval.simple_evaluate(
        HarnessModel(run_lib.load(args.run), args.chat), tasks=args.tasks.split(","), num_fewshot=args.shots, limit=args.limit,
        task_manager=TaskManager(include_path=str(args.include) if args.include else None), bootstrap_iters=1000)
    kept = {"shots": args.shots, "limit": args.limit, "is_chat": args.chat, "sampling": "likelihood or greedy",
            "results": found["results"], "samples": {name: len(asked) for name, asked in found["samples"].items()}}
    files.write_json((args.out or args.run) / "evals" / "harness.json", kept)
    print(lm_eval.utils.make_table(found))


if __name__ == "__main__":
    memory.keep()
    errors.run(main)
