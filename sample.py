"""Ask a trained model: python sample.py RUN [PART ...] [options]

A part is text, a picture (.png .jpg .webp), a sound (.wav .flac .ogg .mp3), a clip (.gif, and .mp4 with
the extra `video`) or a folder of pictures (one frame each), in any order. The answer is text, pictures, or both.

    python sample.py runs/demo "Draw: red apple"
    python sample.py runs/demo "Two ideas:" blue_cat.png "and" meow.wav clip.gif
    python sample.py runs/demo cat.png "What is it?" --greedy
    python sample.py runs/demo "Draw: fish" --num-samples 4 --seed 7 --image-size 64x32
    python sample.py runs/demo "Draw: fish" --best-of 8 --named fish --image temperature=1,top_k=50
    python sample.py runs/demo --interactive
    echo "Draw: fish" | python sample.py runs/demo --json
    python sample.py runs/demo --prompts prompts.jsonl > answers.jsonl
    python sample.py runs/demo "Draw: fish" --mesh 1,1,4,1

Text appears as it is written, and pictures where the terminal can show them. Pictures and sounds
are saved beside index.html, a page that holds the whole conversation, in a fresh folder
out/<run>-<n>. The same command with the same seed gives the same answer. Ctrl-C ends an answer and
keeps what was made. Without a PART, parts are read from standard input, one a line. A line of
prompts.jsonl is "a text", a list of parts, or {"parts": [...]}; each is answered by itself, and its answer
printed when it is ready: "index" says which line it is of, from 0; "error" says why it has none. --mesh cuts the model over several devices,
in the example over the four that are there.
"""

import argparse
import sys
from pathlib import Path

from gemini_mini import errors, memory

if __name__ == "__main__":
    memory.keep()  # before what takes a second to import: it starts the program again
    errors.end_quietly()

from gemini_mini import api, parallel, talk  # noqa: E402
from gemini_mini.decode import options as options_lib, prompt, terminal  # noqa: E402


def changes(text: str) -> dict[str, float]:
    """ "temperature=1,top_k=50" as numbers by name."""
    pairs = (pair.partition("=") for pair in text.split(","))
    try:
        return {name.replace("-", "_"): float(value) for name, _, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be such as temperature=1,top-k=50, got {text!r}") from None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="python sample.py RUN [PART ...] [options]", description=__doc__.split("\n", 2)[2],
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add, plain = parser.add_argument, options_lib.Options()
    add("run", metavar="RUN", type=Path, help="folder that train.py made, or a released file")
    add("parts", metavar="PART", nargs="*", help="text, or the path of a picture, a sound, a clip")
    add("--interactive", action="store_true", help="a chat that remembers")
    add("--prompts", metavar="FILE", help='answer every line of a file of JSON lines ("-": standard input)')
    add("--json", action="store_true", help="a line of JSON for each answer, and nothing else, on standard output")
    add("--num-samples", type=int, default=1, help="answers to give (default 1)")
    add("--out", type=Path, help="folder for the page, pictures and sounds; must be new or empty")
    add("--mesh", metavar=",".join(parallel.MESH_AXES).upper(),
        help="devices along each axis, all there are; 0 for DATA takes what is left (default: one device)")
    add("--eight-bit", action="store_true", help="weights of 8 bits: faster on a CPU; needs a C++ compiler")
    add("--pictures", choices=terminal.PROTOCOLS, help="how the terminal shows them (default: as it says it can)")
    how = parser.add_argument_group("how to answer")
    how.add_argument("--greedy", action="store_true", help="the same as --temperature 0")
    for name, text in (
        ("seed", "another seed, another answer"), ("max-tokens", "longest answer, in tokens"),
        ("temperature", "0: always the likeliest; 1: the model's own odds"),
        ("top-k", "draw among the K likeliest tokens; 0: all"),
        ("top-p", "draw among the likeliest tokens that make up P"),
        ("min-p", "draw among tokens at least P times as likely as the likeliest"),
        ("repetition-penalty", "above 1: what the answer holds already becomes less likely"),
        ("guidance", "above 1: pictures follow the words more closely, at twice the cost"),
        ("best-of", "draw N answers and give the likeliest"),
        ("named", "with --best-of: the answer whose picture the model itself would most likely call so"),
    ):
        default = getattr(plain, name.replace("-", "_"))
        how.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default {default})")
    add = how.add_argument
    add("--image-size", metavar="WxH", default="", help="size of drawn pictures in pixels (default: the model decides)")
    add("--modalities", metavar="M,M", type=lambda text: tuple(text.split(",")), default=plain.modalities,
        help=f"what the answer may hold, of {','.join(options_lib.MODALITIES)} (default {','.join(plain.modalities)})")
    for name in ("text", "image", "audio"):
        add(f"--{name}", metavar="NAME=X,...", type=changes, default={}, help=f"other sampling for {name} alone")
    return parser.parse_intermixed_args()


def main() -> None:
    args = arguments()
    options = {name: getattr(args, name) for name in vars(options_lib.Options())}
    options |= {"temperature": 0.0} if args.greedy else {}
    options_lib.Options(**options)
    if args.num_samples < 1:
        raise errors.InputError(f"--num-samples: must be at least 1, got {args.num_samples}")
    if bool(args.parts) + args.interactive + bool(args.prompts) > 1:
        raise errors.InputError("PART, --interactive and --prompts: only one of them can say what to answer")
    if args.named and args.prompts:
        raise errors.InputError("--named: is for one prompt; leave it out of --prompts")
    if args.num_samples > 1 and (args.interactive or args.prompts):
        raise errors.InputError("--num-samples: is for one prompt; leave it out, or repeat the lines of --prompts")
    words = args.parts
    if args.prompts:
        try:
            file = sys.stdin if args.prompts == "-" else open(args.prompts, encoding="utf-8")
        except OSError as error:
            raise errors.InputError(f"--prompts: {args.prompts} cannot be read ({error.strerror}); check the path") from None
        with file:
            prompts = talk.read_prompts(file, args.prompts)
    elif not args.interactive:
        words = words or ([] if sys.stdin.isatty() else talk.read_lines(sys.stdin))
        if not words:
            raise errors.InputError("PART: give at least one, or --interactive; --help shows examples")
        prompt.check(words)
    keeper = talk.Keeper(args.out, args.run.resolve().name)
    pictures, is_json = args.pictures or terminal.protocol(), args.json or bool(args.prompts)
    mesh = parallel.read_mesh(args.mesh) if args.mesh else None
    conversation = talk.Talk(api.load(args.run, mesh, args.eight_bit), keeper, options, pictures, is_json)
    if args.interactive:
        conversation.chat(talk.typed_lines())
    elif args.prompts:
        conversation.batch(prompts)
    else:
        conversation.ask(words, args.num_samples)


if __name__ == "__main__":
    errors.run(main, stopped="stopped")
