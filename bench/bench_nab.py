"""The detector on the Numenta Anomaly Benchmark, by the benchmark's own scoring.

In:  a folder with data/<family>/<name>.csv, labels/combined_windows.json and, if there is one,
     config/profiles.json; --threshold T to score at a threshold that was fixed on other files.
Out: the three profiles and the threshold on standard output. Without --threshold it is the one with
     the best standard score here. To show how much that flatters, thresholds fixed on half of the
     files, and on all families but one, score the rest.

The detector is causal and gets the numbers of params.yaml, the same for every file. Scores and
threshold are those of a new anomaly (`novelty`), in powers of ten: params.yaml's unit.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nab_scoring
import numpy as np
import polars as pl
from nab_scoring import Labels, Profile
from tqdm import tqdm

from apm_analytics.baselines.detection import SeriesDetector
from apm_analytics.foundation.errors import ApmError, BadInput, NotFound
from apm_analytics.foundation.settings import DetectorParams, load

# The weights that the benchmark publishes; a config/profiles.json of the folder goes first.
PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}
SPLITS = 50
SEED = 7


@dataclass(frozen=True)
class File:
    """One series of the benchmark."""

    name: str
    times: np.ndarray
    values: np.ndarray
    labels: Labels


def main() -> int:
    """Score a folder and print; return exit code 1 if it cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threshold", type=float)
    arguments = parser.parse_args()
    try:
        files, profiles = read(arguments.folder), read_profiles(arguments.folder)
    except ApmError as error:
        print(error, file=sys.stderr)
        return 1
    begun = time.process_time()
    scores = detect(files, load().params.detector)
    spent = time.process_time() - begun
    points, windows = (
        sum(one.labels.points for one in files),
        sum(len(one.labels.windows) for one in files),
    )
    print(f"{len(files)} files, {points:,} points, {windows} windows")
    print(f"{1e6 * spent / points:.1f} us CPU per point, compilation included")
    threshold = arguments.threshold
    if threshold is None:
        threshold = best_threshold(scores, files, profiles["standard"])
        print(f"threshold {threshold:.4f}, fixed on these files")
    else:
        print(f"threshold {threshold:.4f}, given")
    for name, profile in profiles.items():
        print(f"{name:20} {score(scores, files, profile, threshold):6.1f}")
    if arguments.threshold is None:
        halves, families = cross_validated(scores, files, profiles["standard"])
        print(f"standard, threshold fixed on half of the files, {SPLITS} splits   {halves:6.1f}")
        print(f"standard, threshold fixed on all families but the scored  {families:6.1f}")
    return 0


def read(folder: Path) -> list[File]:
    """Read the labelled series of a folder.

    Raises
    ------
    NotFound
        There are no labels, or no series that they name.
    BadInput
        A file is not what the benchmark has.
    """
    labels = folder / "labels" / "combined_windows.json"
    if not labels.exists():
        raise NotFound(f"no {labels}; give a folder of the benchmark's layout")
    try:
        windows = json.loads(labels.read_text())
    except ValueError as error:
        raise BadInput(f"{labels} is no JSON: {error}") from error
    found = [name for name in sorted(windows) if (folder / "data" / name).exists()]
    if not found:
        raise NotFound(f"none of the {len(windows)} series of {labels} is in {folder / 'data'}")
    return [_read_series(folder / "data" / name, name, windows[name]) for name in found]


def read_profiles(folder: Path) -> dict[str, Profile]:
    """Read config/profiles.json, or return the published profiles."""
    file = folder / "config" / "profiles.json"
    if not file.exists():
        return PROFILES
    try:
        costs = {name: one["CostMatrix"] for name, one in json.loads(file.read_text()).items()}
        found = {
            name: Profile(one["tpWeight"], one["fpWeight"], one["fnWeight"])
            for name, one in costs.items()
        }
        return {"standard": found.pop("standard"), **found}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} holds no profiles of the benchmark: {error!r}") from error


def detect(files: list[File], params: DetectorParams) -> list[np.ndarray]:
    """Return the novelty of each series, in powers of ten, without a look ahead."""
    params = params.model_copy(update={"threshold": 1.0})
    return [
        SeriesDetector(params).score(one.times, one.values).novelty
        for one in tqdm(files, desc="detect", unit="file", disable=None)
    ]


def best_threshold(scores: list[np.ndarray], files: list[File], profile: Profile) -> float:
    """Return the threshold with the best score over all files."""
    labels = [one.labels for one in files]
    thresholds = nab_scoring.candidate_thresholds(scores, labels)
    raw = _raw(scores, files, thresholds, profile).sum(axis=0)
    return float(thresholds[raw.argmax()])


def score(scores: list[np.ndarray], files: list[File], profile: Profile, threshold: float) -> float:
    """Return the normalised score of all files at a threshold."""
    raw = _raw(scores, files, np.array([threshold]), profile).sum(axis=0)
    return float(nab_scoring.normalised(raw, [one.labels for one in files], profile)[0])


def cross_validated(
    scores: list[np.ndarray], files: list[File], profile: Profile
) -> tuple[float, float]:
    """Return the score with the threshold from other files: from half of them, from other families.

    Raw scores of everything scored are summed before they are put on the benchmark's scale.
    """
    labels = [one.labels for one in files]
    thresholds = nab_scoring.candidate_thresholds(scores, labels)
    raw = _raw(scores, files, thresholds, profile)
    rng = np.random.default_rng(SEED)
    halves = []
    for _ in range(SPLITS):
        first = rng.permutation(len(files)) < len(files) / 2
        halves += [first, ~first]
    family = np.array([one.name.split("/")[0] for one in files])
    families = [family == one for one in np.unique(family)]
    results = []
    for parts in (halves, families):
        total, scored = 0.0, []
        for held in parts:
            total += raw[held, raw[~held].sum(axis=0).argmax()].sum()
            scored += [one for one, is_held in zip(labels, held, strict=True) if is_held]
        results.append(float(nab_scoring.normalised(np.array(total), scored, profile)))
    return results[0], results[1]


def _raw(
    scores: list[np.ndarray], files: list[File], thresholds: np.ndarray, profile: Profile
) -> np.ndarray:
    return np.array(
        [
            nab_scoring.raw_scores(found, one.labels, thresholds, profile)
            for found, one in zip(scores, files, strict=True)
        ]
    )


def _read_series(file: Path, name: str, windows: list[list[str]]) -> File:
    try:
        frame = pl.read_csv(file, schema_overrides={"timestamp": pl.String, "value": pl.Float64})
        times = _seconds(frame["timestamp"])
        values = frame["value"].fill_null(np.nan).to_numpy()
        bounds = _seconds(pl.Series([at for window in windows for at in window], dtype=pl.String))
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise BadInput(f"{file} has no columns timestamp and value: {error}") from error
    places = []
    for at in bounds:
        found = np.flatnonzero(times == at)
        if not found.size:
            raise BadInput(f"a window of {name} begins or ends at a time that {file} has not")
        places.append(int(found[0]))
    pairs = tuple(sorted(zip(places[::2], places[1::2], strict=True)))
    return File(name, times, values, Labels(times.size, pairs))


def _seconds(stamps: pl.Series) -> np.ndarray:
    known = stamps.str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S")
    return known.dt.epoch("s").to_numpy().astype(np.float64)


if __name__ == "__main__":
    sys.exit(main())
