"""What a certificate would say if its samples were no end of samples: how much of it is lost to their number.

A bound from N samples lies beyond the quantile that it bounds, by more the fewer they are. Here each percentile is read
off the very samples as it is, without a confidence: an estimate of what ever more samples would certify, and no
certificate. Samples are found by the hash that a certificate's record has of them; each row names that record, which
has the command, the commit, the data and the machine. A percentile in whose tail fewer than five samples lie is not
told.

    python -m bench certify --cache CACHE --out OUT ...
    python tests/benchmarks/measure_certificate_limits.py CACHE OUT/certificates FILE.csv
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from bench.metrics import ranking
from bench.records import certificate_store
from bench.records.certificate import Certificate
from bench.report.certificates import label
from certificates.rules import place
from detectors import checkpoint

FEWEST = 5  # samples beyond a percentile


def main(cache: Path, folder: Path, out: Path) -> None:
    """Write, and print, a row for each certificate of a percentile and each radius that its samples show."""
    found, problems = certificate_store.read_all(folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    wanted = {one.samples_sha256: one for one in found if one.claim.smoothing.rule == "percentile"}
    rows = [row for samples in every_set(cache) for row in of_samples(samples, wanted)]
    table = pd.DataFrame(rows).sort_values(["category", "detector", "radius"], kind="stable")
    table = table.round({"certified": 1, "estimate": 1})
    table.to_csv(out, index=False, lineterminator="\n")
    print(table.to_string(index=False))
    told = len({(row["category"], row["detector"]) for row in rows})
    print(f"The samples of {told} of {len(wanted)} certificates are there.")


def every_set(cache: Path) -> Iterator[NDArray[np.float64]]:
    """Samples that were drawn of some images, in the order in which they were, (n, M)."""
    for folder in sorted((cache / "samples").glob("*/*")):
        pieces = sorted(
            (path for path in folder.glob("*.safetensors") if path.stem[0].isdecimal()),
            key=lambda path: int(path.stem.partition("-")[0]),
        )
        if pieces:
            yield torch.cat([checkpoint.read(path)[0]["scores"].double() for path in pieces]).numpy()


def of_samples(samples: NDArray[np.float64], wanted: dict[str, Certificate]) -> Iterator[dict[str, object]]:
    """Rows of all certificates that were made of these samples, or of their first ones."""
    for count in sorted({one.claim.smoothing.samples for one in wanted.values()}):
        if count > len(samples):
            continue
        own = np.sort(samples[:count].T, axis=1)
        certificate = wanted.get(hashlib.sha256(np.ascontiguousarray(own).data).hexdigest())
        if certificate is not None:
            yield from _rows(certificate, own)


def _rows(certificate: Certificate, samples: NDArray[np.float64]) -> Iterator[dict[str, object]]:
    claim, count = certificate.claim, samples.shape[1]
    labels = certificate_store.read_bounds(certificate).labels
    assert claim.smoothing.p is not None and claim.smoothing.sigma is not None
    centre = norm.ppf(claim.smoothing.p)
    for radius in claim.radii:
        lower, upper = (float(norm.cdf(centre + way * radius / claim.smoothing.sigma)) for way in (-1, 1))
        if min(lower, 1 - upper) * count < FEWEST:
            continue
        worst = np.where(labels == 1, samples[:, place(upper, count)], samples[:, place(lower, count)])
        yield {
            "category": claim.category,
            "detector": label(certificate),
            "samples": count,
            "radius": radius,
            "certified": certificate.at(radius)["auc"],
            "estimate": float(ranking.auc(worst, labels)),
            "certificate": certificate.key[:12],
        }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
