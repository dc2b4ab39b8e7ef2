"""A page of cards: what the three tokenizers of a run keep, to read, see and hear.

Pictures, names and sounds are those of the world the run was trained on, found beside its rows, or of the one that is named. Examples are
spread evenly over a split, never chosen by hand; of a test split they are the dev half.
Next: card.py; text.py, image.py and audio.py, a card each.
"""

from pathlib import Path

from data_prep import worlds
from gemini_mini import errors, files, report
from gemini_mini import run as run_lib
from gemini_mini.cards import audio, card, image, text
from gemini_mini.data import mixture
from gemini_mini.decode import page
from gemini_mini.tokenizers import bundle

STYLE = """<style>
.piece { border: 1px solid var(--line); border-radius: 4px; padding: 0 .15em; margin: 0 .06em; white-space: pre; line-height: 1.9; }
.piece:nth-child(odd) { background: var(--soft); }
.piece.byte { opacity: .55; font: .8em ui-monospace, monospace; }
.facts { max-width: 60rem; } td audio { width: 15rem; height: 2rem; }
</style>"""
INTRO = """<p>A decoder sees no letters, pixels or samples: it reads codes. What the three tokenizers lose, it cannot bring
back. They were trained from scratch on this machine; figures are on what they were not trained on, unless they say so.</p>"""


def write(run_folder: Path, world_folder: Path | None, out: Path | None = None) -> Path:
    """Print the cards and write tokenizers.html, whose path is returned, in the run's folder.

    A released file has neither a folder nor a world: `world_folder` and `out` stand for them.
    Raises: InputError when they do not, or the folder is no decoder's run.
    """
    if run_folder.is_file():
        if not (world_folder and out):
            raise errors.InputError(f"{run_folder}: is a released file, and says neither what to show nor where the page goes; give --world and --out")
        released = run_lib.load(run_folder)
        task, tokenizers, training = released.settings["task"], released.tokenizers, {}
    elif out:
        raise errors.InputError(f"--out: is for a released file, and {run_folder} is none; its page stands in the run folder")
    elif not (run_folder / "tokenizers").is_dir():
        raise errors.InputError(f"{run_folder}: has no tokenizers/; give a run folder that train.py made with a decoder's config, or a released file")
    else:
        task = files.read_json(run_folder / "run.json")["settings"]["task"]
        tokenizers = bundle.load(*(run_folder / "tokenizers" / name for name in ("text.model", "image.safetensors", "audio.safetensors")))
        training = training_figures(run_folder / "tokenizers" / "audio.safetensors", Path(task["audio_tokenizer"]))
    world = worlds.embedded(world_folder or Path(task["rows"]).parent / "world").only("dev")
    shares = mixture.shares(tuple(mixture.Stage(**stage) for stage in task["stages"]))
    num_codes = tokenizers.image.config.num_codes + tokenizers.audio.config.num_codes
    made = [text.make(tokenizers.text, world, shares, num_codes), image.make(tokenizers.image, world), audio.make(tokenizers.audio, world, training)]
    for one in made:
        card.show(one)
    links = "".join(f'<a href="#{one.title.lower()}">{one.title}</a>' for one in made)
    body = "".join(f'<h2 id="{one.title.lower()}">{one.title}</h2>{card.html(one)}' for one in made)
    path = (out or run_folder) / "tokenizers.html"
    page.write(path, "gemini_mini: what its tokenizers keep",
               f"{report.STYLE}{STYLE}{INTRO}<nav>{links}</nav>{body}<h2>Credits</h2>{report.CREDITS}")
    return path


def training_figures(copy: Path, trained: Path) -> dict[str, float]:
    """What the training of a tokenizer found at its end; nothing where its run is gone, or has made another since."""
    if not trained.is_file() or copy.read_bytes() != trained.read_bytes() or not (trained.parent / "done.json").is_file():
        return {}
    return files.read_json(trained.parent / "done.json")
