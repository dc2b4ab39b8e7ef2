"""gemini_mini: a native multimodal model, from raw data to interleaved answers.

Dimension letters, used in annotations, einsums and sharding alike:
B row · T query/stream position · S key/cache position · D model · N query head ·
K key/value head (1 = multi-query) · G query heads per key head · H head · F hidden ·
V vocabulary · L layer · A audio frame · M mel bin · Y X image grid · Z code vector.
Pixels and waves use words: height width, samples.
"""


def load(run, mesh=None, eight_bit=False):
    """A finished run, ready to answer: `gemini_mini.load("runs/demo").generate(["Draw: cat"])`. See api.py."""
    from gemini_mini import api  # here, so that training imports no sampler

    return api.load(run, mesh, eight_bit)
