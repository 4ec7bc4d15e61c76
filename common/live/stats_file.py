"""The file of `--stats`: a session's summary with its parameters, inputs and outputs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..files import write_whole
from ..io.inputs.controls import Counts
from ..io.outputs.output import Sent
from .parameters import LiveParameters
from .stats import Summary


def write_stats(
    path: Path,
    summary: Summary,
    values: LiveParameters,
    counts: Counts,
    sent: Sequence[Sent],
) -> None:
    """Write the figures of a session that has ended as JSON.

    values: the last ones. Inputs and outputs are left out where there were none. Raises OSError.
    """
    figures = summary.as_json() | {"parameters": asdict(values)}
    if counts.offered or counts.malformed:
        figures["inputs"] = asdict(counts)
    if sent:
        figures["outputs"] = [asdict(each) for each in sent]
    write_whole(path, (json.dumps(figures, indent=1) + "\n").encode())
