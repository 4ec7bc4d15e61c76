"""Is a stage limited by arithmetic or by memory, and so what can fewer bits or less work buy?
(Williams et al. 2009)

A stage of F FLOPs that moves B bytes cannot take less than max(F / peak, B / bandwidth). F and B
come from its graph, peak and bandwidth were measured in the same run. B is the least traffic, with
everything between two products fused, so a stage said to be compute-bound may be less so than it
seems.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from ..measure.instrument import ITEM_BYTES, Peaks, StageCost
from .report import Peak, Roofline, StageRoof

NEAR = 0.6  # a stage that reaches so much of its roof is limited by it
FAR = 0.25  # one that reaches less is limited by neither
NAMES = {"encode": "Encoding", "unet": "The UNet", "decode": "Decoding", "frame": "The whole frame"}


def roofline(
    costs: Sequence[StageCost],
    peaks: Peaks,
    stages_ms: Mapping[str, Sequence[float]],
    frame_ms: float,
    dtype: str,
    host_bytes_per_s: float = 0.0,
) -> Roofline:
    """Place every stage that was both counted and timed under the roof.

    frame_ms: the headline's median, for the whole frame. dtype: in which it computes.
    host_bytes_per_s: what plain copies reach on the host, for a backend whose device is the CPU
    and whose own copy is not the memory's limit; 0 to leave it out.
    """
    host_is_faster = host_bytes_per_s > peaks.bytes_per_s
    how = (
        f"{peaks.how}; bandwidth by plain copies of the host, which are faster"
        if host_is_faster
        else peaks.how
    )
    peak = Peak(peaks.flops_per_s, max(peaks.bytes_per_s, host_bytes_per_s), peaks.dtype, how)
    item = ITEM_BYTES[dtype]
    roofs = [
        _stage(cost, peak, median(stages_ms[cost.stage]), item)
        for cost in costs
        if stages_ms.get(cost.stage)
    ]
    whole = StageCost("frame", 0, 0, 0)
    for cost in costs:
        whole = whole.plus(cost.flops, cost.weights, cost.activations)
    roofs.append(_stage(whole, peak, frame_ms, item))
    return Roofline(peak, peak.flops_per_s / peak.bytes_per_s, roofs, _frame_verdict(roofs))


def _stage(cost: StageCost, peak: Peak, measured_ms: float, item: int) -> StageRoof:
    weight_bytes = cost.weights * item
    moved_bytes = weight_bytes + cost.activations * item
    compute_ms = 1000 * cost.flops / peak.flops_per_s
    memory_ms = 1000 * moved_bytes / peak.bytes_per_s
    roof_ms = max(compute_ms, memory_ms)
    # Even if no byte travelled while something was computed, fewer weight bytes could save no more
    # than their own way.
    bits = 8 * item
    saves = {b: 1000 * weight_bytes * max(0, 1 - b / bits) / peak.bytes_per_s for b in (8, 4)}
    saves = {b: min(saved, measured_ms) for b, saved in saves.items()}
    bound = "compute" if compute_ms >= memory_ms else "memory"
    roof = StageRoof(
        cost.stage,
        cost.flops,
        moved_bytes,
        weight_bytes,
        measured_ms,
        cost.flops / moved_bytes,
        bound,
        roof_ms,
        roof_ms / measured_ms,
        saves[8],
        saves[4],
        "",
    )
    roof.verdict = _verdict(roof, peak, bits)
    return roof


def _verdict(roof: StageRoof, peak: Peak, bits: int) -> str:
    """Plain words for one stage."""
    name = NAMES.get(roof.stage, roof.stage)
    ridge = peak.flops_per_s / peak.bytes_per_s
    limit = "arithmetic, not memory," if roof.bound == "compute" else "memory, not arithmetic,"
    place = (
        f"{name} does {roof.intensity:.0f} FLOPs a byte; {limit} sets its floor (the ridge is "
        f"at {ridge:.0f})."
    )
    if roof.share > 1:
        reach = (
            f"It runs {roof.share:.1f} times as fast as the roof allows: its kernels do fewer "
            "operations than were counted."
        )
    elif roof.share >= NEAR:
        reach = f"At {roof.share:.0%} of that floor's rate it is {roof.bound}-bound."
    elif roof.share >= FAR:
        reach = (
            f"At {roof.share:.0%} of that floor's rate it is {roof.bound}-bound with room for "
            "better kernels."
        )
    else:
        reach = (
            f"At {roof.share:.0%} of that floor's rate neither limits it: look at small "
            "kernels, launches and copies."
        )
    return f"{place} {reach} {_bits_verdict(roof, bits)}"


def _bits_verdict(roof: StageRoof, bits: int) -> str:
    eight, four = (
        100 * saved / roof.measured_ms for saved in (roof.int8_saves_ms, roof.int4_saves_ms)
    )
    at_most = (
        f"from {bits} bits, int8 weights can save at most {eight:.1f} % of its time and "
        f"4-bit weights {four:.1f} %"
    )
    if four < 5:
        return f"Quantised weights buy nothing worth having: {at_most}."
    return (
        f"Quantised weights could help: {at_most}, if none of the transfer is hidden behind "
        "arithmetic now."
    )


def _frame_verdict(roofs: Sequence[StageRoof]) -> str:
    """What a smaller UNet can buy at most (Amdahl's law)."""
    unet = next((r for r in roofs if r.stage == "unet"), None)
    total = sum(r.measured_ms for r in roofs if r.stage != "frame")
    if unet is None or total <= 0:
        return ""
    rest = total - unet.measured_ms
    half = total / (rest + unet.measured_ms / 2)
    none = f"{total / rest:.2f} times" if rest > 0 else "without limit"
    return (
        f"The UNet takes {unet.measured_ms / total:.0%} of encode, UNet and decode together "
        f"({total:.1f} ms). One of half the "
        f"arithmetic makes the frame at most {half:.2f} times as fast, one that costs nothing "
        f"{none}."
    )
