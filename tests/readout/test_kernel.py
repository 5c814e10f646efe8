"""The compiled loops as code: the same in the process that compiles them and in those that load them."""

from __future__ import annotations

import os
import subprocess
import sys

CHILD = """
import hashlib
import torch
from midstream.readout import read as door
from midstream.readout.read import Rows, read
from midstream.readout.reader import Reader

torch.set_num_threads(1)
door.COMPILED_ROWS = 0
draw = torch.Generator().manual_seed(0)
reader = Reader(torch.randn(8195, 131, generator=draw))
xs = [size * torch.randn(60, 131, generator=draw) for size in (0.05, 0.1, 0.2)]
tokens = torch.randint(0, 8195, (60, 3), generator=draw)
found = hashlib.sha256()
for precision in ("exact", "fast"):
    for part in read(reader, [Rows(x, tokens, None, xs[0]) for x in xs], reference=xs[-1], precision=precision):
        for name in ("lse", "entropy", "kl_final_lens", "kl_lens_final", "kl_base", "logprob", "rank", "top_ids"):
            found.update(getattr(part, name).tobytes())
print(found.hexdigest())
"""


def test_the_process_that_compiles_reads_the_same_bits_as_later_ones(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    said = [
        subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.rglob("*.nbc")), "nothing was compiled here"
    assert said[0] == said[1]
