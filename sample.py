"""Ask a trained model: python sample.py RUN PART [PART ...] [options]

A part is text, a picture (.png .jpg .webp), a sound (.wav .flac .ogg .mp3), a clip (.gif) or a
folder of pictures (one frame each), in any order. The answer is text, pictures, or both.

    python sample.py runs/demo "draw a red apple"
    python sample.py runs/demo "what is this?" cat.png
    python sample.py runs/demo speech.wav "write down what you hear"
    python sample.py runs/demo "which one is larger?" a.png "or" b.png --greedy
    python sample.py runs/demo "draw a fish" --num-samples 4 --seed 7 --image-size 32x32

Text appears as it is written. Pictures are saved as PNG beside index.html, a page that holds the
whole conversation, in a fresh folder out/<run>-<n>. The same command with the same seed gives
the same answer.
"""

import argparse
import itertools
import platform
import sys
import time
from pathlib import Path

import jax
import numpy as np

from gemini_mini import errors, run, stream, vocab as vocabulary
from gemini_mini.decode import engine, page, prompt, sampling, terminal
from gemini_mini.tokenizers import image_io


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="python sample.py RUN PART [PART ...] [options]", description=__doc__.split("\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder that train.py made")
    add("parts", metavar="PART", nargs="+", help="text, or the path of a picture, a sound, a clip")
    add("--seed", type=int, default=0, help="another seed, another answer (default 0)")
    add("--temperature", type=float, default=0.8, help="0: always the likeliest; 1: the model's own odds (default 0.8)")
    add("--top-k", type=int, default=0, help="draw among the K likeliest tokens (default 0: all)")
    add("--top-p", type=float, default=0.95, help="draw among the likeliest tokens that make up P (default 0.95)")
    add("--greedy", action="store_true", help="the same as --temperature 0")
    add("--max-tokens", type=int, default=512, help="longest answer, in tokens (default 512)")
    add("--num-samples", type=int, default=1, help="answers to give (default 1)")
    add("--image-size", metavar="WxH", help="size of drawn pictures in pixels (default: the model decides)")
    add("--out", type=Path, help="folder for the page and the pictures; must be new or empty")
    return parser.parse_intermixed_args()


def main() -> None:
    args = arguments()
    if args.num_samples < 1:
        raise errors.InputError(f"--num-samples: must be at least 1, got {args.num_samples}")
    how = sampling.Sampling(0.0 if args.greedy else args.temperature, args.top_k, args.top_p)
    prompt.check(args.parts)
    page.check_folder(args.out)
    # Compiled programs are kept for the next call, whose first token then comes three times sooner.
    cache = Path.home() / ".cache" / "gemini_mini" / platform.node()
    jax.config.update("jax_compilation_cache_dir", jax.config.jax_compilation_cache_dir or str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    name = args.run.resolve().name
    loaded = run.load(args.run)
    tokenizers, patch = loaded.tokenizers, loaded.tokenizers.image.config.patch
    settings = engine.Settings(how, how, prompt.drawing_rules(args.image_size, patch), args.max_tokens, args.seed)
    question = [stream.Role("user"), *prompt.read(args.parts, patch), stream.Role("model")]
    ids = stream.render(tokenizers.encode_documents([question])[0], tokenizers.vocab, is_prompt=True)

    times = [time.monotonic()]
    typewriter = terminal.Typewriter(
        tokenizers.vocab, tokenizers.text.decode, lambda text: print(text, end="", flush=True))

    def on_tokens(index: int, tokens: np.ndarray) -> None:
        times.append(time.monotonic())
        if index == 0:
            typewriter.add(tokens)

    answers = engine.generate(loaded.model, tokenizers.vocab, [ids] * args.num_samples, settings, on_tokens)
    print()

    folder, turns, number = page.fresh_folder(args.out, name), "", itertools.count(1)
    for index, answer in enumerate(answers, start=1):
        parts = stream.parse(np.concatenate([[vocabulary.BOS], answer.tokens]), tokenizers.vocab)
        document = tokenizers.decode_parts(parts)
        turns += page.conversation([stream.Role("model"), *document])
        for part in document:
            if isinstance(part, stream.Text) and index > 1:  # the first answer was shown as it came
                print(f"[{index}] {terminal.printable(part.text)}")
            if isinstance(part, stream.Image):
                path = folder / f"picture-{next(number)}.png"
                image_io.write_png(path, part.pixels)
                print(f"[{index}] {path}\n{terminal.picture(part.pixels) if terminal.has_colour() else ''}", end="")
    count = sum(len(answer.tokens) for answer in answers)
    first_s, rest_s = times[1] - times[0], times[-1] - times[1]
    speed = f"first token after {first_s:.1f} s" + (
        f", then {(count - len(answers)) / rest_s:,.0f} tokens/s" if rest_s > 0 else "")
    facts = {"run": args.run, "seed": args.seed, "temperature": how.temperature, "top-k": how.top_k,
             "top-p": how.top_p, "tokens": f"{len(ids)} in, {count} out", "speed": speed}
    rows = [(page.escape(fact), page.escape(value)) for fact, value in facts.items()]
    page.write(folder / "index.html", f"A conversation with {name}",
               page.conversation(question[:-1]) + turns + page.table(rows))
    print(f"{folder / 'index.html'}\n{len(ids)} tokens in, {count} out; {speed}", file=sys.stderr)


if __name__ == "__main__":
    errors.run(main)
