"""What a compiled step says about a pod: memory, work, links, time.

    bound      useful FLOPs over those the chips could do in the longest of: all products, all memory
               traffic, all traffic on the links. Nothing can be faster.
    estimate   the compiler's cycles, the attention kernels at `KERNEL_SHARE` of the peak, and what
               travels with nothing beside it, one after another. Never checked against hardware.
"""

from collections.abc import Iterator

from gemini_mini.plan import budget, compiler, hlo, topology

KERNEL_SHARE = 0.6  # of peak, for Pallas kernels: an assumption
GIB, DAY_S = 2**30, 86_400


def lines(compiled: compiler.Compiled, costs: hlo.Costs, chip: topology.Chip, chips: int, hosts: int, params: float,
          useful_flops: float, step_tokens: int, steps: int) -> Iterator[str]:
    """The report; FLOPs are of one chip and step."""
    memory = compiled.memory
    yield f"compiled in {compiled.seconds:.0f} s"
    yield "memory a chip, GiB"
    for kind in ("weights", "optimizer", "batch", "temporaries"):
        yield f"  {kind:<22}{memory[kind] / GIB:8.2f}"
    yield f"  {'together':<22}{sum(memory[k] for k in memory if k != 'peak') / GIB:8.2f}   {memory['peak'] / GIB:.2f} at one time, by the compiler"
    for size, count, what in hlo.largest(compiled.text):
        yield f"    {size / GIB:5.2f} x {count}   {what}"
    recomputed = costs.flops / useful_flops - 1
    yield "work a chip and step"
    yield f"  {'useful':<22}{useful_flops / 1e12:8.1f} TFLOP   causal attention, nothing done twice"
    yield f"  {'executed':<22}{costs.flops / 1e12:8.1f} TFLOP   {costs.kernel_flops / 1e12:.1f} of them attention kernels; {recomputed:+.0%}"
    yield f"  {'memory':<22}{costs.memory_bytes / 1e9:8.1f} GB"
    yield f"  {'links':<22}{costs.sent_bytes / 1e9:8.2f} GB, {costs.exposed_bytes / 1e9:.2f} with nothing beside"
    for (kind, axes), traffic in sorted(costs.links.items(), key=lambda entry: -entry[1].sent):
        if traffic.sent > 1e6:
            yield f"    {kind + ' over ' + axes:<38}{traffic.sent / 1e9:8.2f} GB, {traffic.exposed / 1e9:.2f} with nothing beside"
    ring = 2 * chip.link_bytes_per_s
    times = {"products": costs.flops / chip.peak_flops, "memory": costs.memory_bytes / chip.memory_bytes_per_s,
             "links": costs.sent_bytes / ring}
    limit = max(times, key=times.get)
    kernels = costs.kernel_flops / chip.peak_flops / KERNEL_SHARE
    estimate = max(costs.cycles / chip.clock_hz, times["memory"]) + kernels + costs.exposed_bytes / ring
    if costs.host_bytes:
        host_bytes = costs.host_bytes * chips / hosts
        yield (f"  between slices        {costs.host_bytes / 1e9:8.3f} GB, {host_bytes / 1e9:.2f} a host: to pass within the step estimated "
               f"below takes {8 * host_bytes / estimate / 1e9:.1f} Gbit/s each way")
    yield "time of a step"
    yield "  at least              " + ", ".join(f"{name} {t * 1e3:.0f} ms" for name, t in times.items())
    yield f"  bound                 MFU {useful_flops / chip.peak_flops / times[limit]:.1%}, set by the {limit}"
    yield (f"  estimate              {estimate * 1e3:.0f} ms, MFU {useful_flops / chip.peak_flops / estimate:.1%}, "
           f"with kernels at {KERNEL_SHARE:.0%} of peak assumed")
    yield f"                        {step_tokens / estimate / 1e6:.2f}M tokens/s, {step_tokens / estimate * DAY_S / 1e9:.1f}B tokens a day (estimate)"
    if costs.unknown_loops or costs.unknown_kernels:
        yield f"  not counted           {costs.unknown_loops} loops (once each), kernels {dict(costs.unknown_kernels)}"
    yield f"tokens for {params / 1e9:.2f}B parameters; {chips} chips"
    planned = steps * step_tokens / budget.TOKENS_PER_PARAM / params
    for factor, name in ((1.0, "compute-optimal"), (planned, "run.steps"), (10.0, "small model"), (50.0, "small model")):
        b = budget.overtrained(params, factor)
        yield (f"  {factor:6.1f} x {name:<16}{b.tokens / 1e9:9.1f}B tokens, {b.tokens / (step_tokens / estimate) / DAY_S:7.1f} days (estimate); as good as "
               f"{b.optimal_params / 1e9:.2f}B compute-optimal, for {b.extra_flops:.2f} x its FLOPs")
