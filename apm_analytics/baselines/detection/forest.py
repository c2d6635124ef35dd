"""Isolation forests over the signals of one operation together.

In:  deviations of each signal from its expected value; 1 is the bound of that signal.
Out: `ForestDetector`: scores above 1 are anomalous; how much each signal contributed.

The forest is fitted to the deviations and their length: without the length it rates a far outlier
in one signal below a moderate one in several. Beyond the lengths seen in its fit a forest is flat;
there the score grows with the length. A missing signal of a window (no latency at night) counts as
expected, deviation 0; a window without any signal has no score.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Flags
from apm_analytics.baselines.models.store import write_frame
from apm_analytics.foundation.compiled import compiled_loop
from apm_analytics.foundation.errors import NotEnoughData, NotFound
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.signals import OPERATION, Schema

# A day of windows of 5 minutes; a forest on fewer isolates noise.
MIN_WINDOWS = 288
# Larger deviations are cut off: one broken value must not stretch the range of the splits.
MAX_DEVIATION = 10.0
# Keeps the growth finite when all quiet windows are as expected.
MIN_LENGTH = 1e-6
FILE_NAME = "forests.parquet"
EULER = 0.5772156649015329


@dataclass(frozen=True)
class Trees:
    """The trees of a forest as arrays, one value per node; scoring needs no scikit-learn.

    Parameters
    ----------
    feature : int32, the column that a node splits; -1 in a leaf.
    threshold : float64, windows up to it go to the left.
    left, right : int32, the nodes after it.
    length : float64, in a leaf: number of splits that isolate a window that ends here.
    roots : int32 of shape (n_trees,), where each tree begins.
    usual : mean number of splits that isolate a window, in a sample of the trees' size.
    """

    feature: NDArray[np.int32]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    length: Floats
    roots: NDArray[np.int32]
    usual: float

    @classmethod
    def of(cls, forest: Any) -> "Trees":
        """Return the trees of a fitted `sklearn.ensemble.IsolationForest`."""
        trees = [one.tree_ for one in forest.estimators_]
        sizes = np.array([tree.node_count for tree in trees])
        roots = np.cumsum(sizes) - sizes
        left, right = (
            np.concatenate(
                [getattr(tree, side) + root for tree, root in zip(trees, roots, strict=True)]
            )
            for side in ("children_left", "children_right")
        )
        leaf = np.concatenate([tree.children_left < 0 for tree in trees])
        depths = np.concatenate([_depths(tree) for tree in trees])
        samples = np.concatenate([tree.n_node_samples for tree in trees])
        return cls(
            feature=np.where(leaf, -1, np.concatenate([one.feature for one in trees])).astype("i4"),
            threshold=np.concatenate([one.threshold for one in trees]),
            left=left.astype("i4"),
            right=right.astype("i4"),
            length=np.where(leaf, depths + _splits(samples), 0.0),
            roots=roots.astype("i4"),
            usual=float(_splits(np.array([forest.max_samples_]))[0]),
        )

    def oddness(self, columns: Floats) -> Floats:
        """Score rows of `columns`: near 1 if isolated by few splits, 0.5 or lower if typical."""
        lengths = np.empty(len(columns))
        # scikit-learn splits in single precision; rounding to it leads to the same leaves.
        single = columns.astype(np.float32).astype(np.float64)
        _lengths(
            single, self.feature, self.threshold, self.left, self.right, self.length,
            self.roots, lengths,
        )  # fmt: skip
        result: Floats = 2.0 ** (-lengths / self.usual)
        return result


@dataclass(frozen=True)
class ForestDetector:
    """A fitted forest and the scale of its scores.

    Parameters
    ----------
    trees : the fitted isolation forest.
    signals : the columns it was fitted on, in order.
    far : length beyond which the score grows with it.
    typical : raw score that becomes 0, the median of the quiet windows.
    limit : raw score above `typical` that becomes 1; a share `contamination` of the quiet
        windows lies above it.
    windows : quiet windows it was fitted on.
    """

    trees: Trees
    signals: tuple[str, ...]
    far: float
    typical: float
    limit: float
    windows: int

    @classmethod
    def fit(
        cls,
        deviations: Floats,
        signals: tuple[str, ...],
        quiet: Flags,
        *,
        trees: int,
        contamination: float,
        seed: int,
    ) -> "ForestDetector":
        """Grow a forest on the quiet windows and calibrate its score on them.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), 1 at the bound; NaN unknown.
        signals : names of the columns.
        quiet : windows to learn from; those of incidents would raise the limit.
        trees : number of trees.
        contamination : share of quiet windows that may score above 1.
        seed : of the trees.

        Raises
        ------
        NotEnoughData
            Fewer than `MIN_WINDOWS` quiet windows, fewer than two signals, or all windows alike.

        Examples
        --------
        >>> ForestDetector.fit(deviations, ("latency_p95", "rate"), quiet, trees=100,
        ...     contamination=0.005, seed=7)  # doctest: +SKIP
        """
        if len(signals) < 2:
            raise NotEnoughData(
                f"one signal: got {list(signals)}, a forest over signals together needs two; "
                "see the other skipped signals of this operation"
            )
        chosen = quiet & np.isfinite(deviations).any(axis=1)
        if chosen.sum() < MIN_WINDOWS:
            raise NotEnoughData(
                f"too short: {chosen.sum()} quiet windows, a forest needs {MIN_WINDOWS}; "
                "import more telemetry"
            )
        columns = _columns(deviations[chosen])
        if (columns == columns[0]).all():
            raise NotEnoughData("constant: all windows are alike, nothing to tell apart")
        # Costs seconds to import; short histories and predicting do not need it.
        from sklearn.ensemble import IsolationForest

        forest = Trees.of(IsolationForest(n_estimators=trees, random_state=seed).fit(columns))
        typical = float(np.median(forest.oddness(columns)))
        far = float(np.quantile(columns[:, -1], 1.0 - contamination))
        unscaled = cls(forest, signals, far, typical, 1.0, int(chosen.sum()))
        limit = float(np.quantile(unscaled.predict(deviations[chosen]), 1.0 - contamination))
        if limit <= 0.0 or far <= 0.0:
            raise NotEnoughData("constant: almost all windows are alike, nothing to tell apart")
        return replace(unscaled, limit=limit)

    def predict(self, deviations: Floats) -> Floats:
        """Score windows: 0 typical or less, above 1 anomalous; NaN without any value.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), columns as in `signals`.
        """
        score = np.full(deviations.shape[0], np.nan)
        known = np.isfinite(deviations).any(axis=1)
        if known.any():
            columns = _columns(deviations[known])
            raw = self.trees.oddness(columns)
            growth = np.maximum(columns[:, -1] / max(self.far, MIN_LENGTH), 1.0)
            score[known] = np.maximum(raw - self.typical, 0.0) * growth / self.limit
        return score

    def contributions(self, deviations: Floats) -> Floats:
        """Return the share of each signal in the score of a window.

        Parameters
        ----------
        deviations : float64 of shape (n_windows, n_signals), columns as in `signals`.

        Returns
        -------
        float64 of the same shape: the share of the score that disappears when that signal is set to
        its expected value. Rows sum to 1, or are 0 where no signal alone matters.
        """
        if not len(deviations):
            return np.zeros_like(deviations)
        score = self.predict(deviations)
        lost = np.empty_like(deviations)
        for column in range(deviations.shape[1]):
            expected = deviations.copy()
            expected[:, column] = 0.0
            lost[:, column] = np.maximum(score - self.predict(expected), 0.0)
        total = lost.sum(axis=1, keepdims=True)
        shares: Floats = np.divide(lost, total, out=np.zeros_like(lost), where=total > 0)
        return shares


def save(forests: dict[tuple[str, str], ForestDetector], models: Path) -> None:
    """Write all forests, keyed by service and operation, into one table."""
    rows = [
        {
            "service_name": service,
            "operation": operation,
            "signals": list(forest.signals),
            "far": forest.far,
            "typical": forest.typical,
            "limit": forest.limit,
            "windows": forest.windows,
            **{
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in vars(forest.trees).items()
            },
        }
        for (service, operation), forest in sorted(forests.items())
    ]
    write_frame(pl.DataFrame(rows, schema=_SCHEMA), models / FILE_NAME)


def load(models: Path) -> dict[tuple[str, str], ForestDetector]:
    """Read the forests that `save` wrote.

    Raises
    ------
    NotFound
        Nothing was trained into `models` yet.
    """
    file = models / FILE_NAME
    if not file.exists():
        raise NotFound(f"no forests at {file}; train first: dvc repro train")
    forests = {}
    for row in read_parquet(file).iter_rows(named=True):
        arrays: dict[str, Any] = {
            name: np.array(row[name], dtype=kind) for name, kind in _KINDS.items()
        }
        trees = Trees(**arrays, usual=row["usual"])
        forests[row["service_name"], row["operation"]] = ForestDetector(
            trees,
            tuple(row["signals"]),
            row["far"],
            row["typical"],
            row["limit"],
            row["windows"],
        )
    return forests


_KINDS: dict[str, type[np.generic]] = {
    "feature": np.int32,
    "threshold": np.float64,
    "left": np.int32,
    "right": np.int32,
    "length": np.float64,
    "roots": np.int32,
}
_SCHEMA: Schema = {
    **dict.fromkeys(OPERATION, pl.String),
    "signals": pl.List(pl.String),
    **dict.fromkeys(("far", "typical", "limit"), pl.Float64),
    "windows": pl.Int64,
    **dict.fromkeys(("feature", "left", "right", "roots"), pl.List(pl.Int32)),
    **dict.fromkeys(("threshold", "length"), pl.List(pl.Float64)),
    "usual": pl.Float64,
}


@compiled_loop
def _lengths(
    columns: Floats,
    feature: NDArray[np.int32],
    threshold: Floats,
    left: NDArray[np.int32],
    right: NDArray[np.int32],
    length: Floats,
    roots: NDArray[np.int32],
    out: Floats,
) -> None:
    for row in range(columns.shape[0]):
        total = 0.0
        for root in roots:
            node = root
            while feature[node] >= 0:
                goes_left = columns[row, feature[node]] <= threshold[node]
                node = left[node] if goes_left else right[node]
            total += length[node]
        out[row] = total / roots.shape[0]


def _depths(tree: Any) -> Floats:
    """Return the splits above each node; parents come before their children."""
    depth = np.zeros(tree.node_count)
    for node in range(tree.node_count):
        for child in (tree.children_left[node], tree.children_right[node]):
            if child >= 0:
                depth[child] = depth[node] + 1.0
    return depth


def _splits(samples: NDArray[np.int64]) -> Floats:
    """Return the mean number of splits that isolate one of so many samples."""
    more = np.maximum(samples, 3).astype(np.float64)
    average = 2.0 * (np.log(more - 1.0) + EULER) - 2.0 * (more - 1.0) / more
    return np.select([samples <= 1, samples == 2], [0.0, 1.0], average)


def _columns(deviations: Floats) -> Floats:
    """Return the columns of a forest: deviations, 0 where unknown, and their length."""
    known = np.clip(np.nan_to_num(deviations, nan=0.0), -MAX_DEVIATION, MAX_DEVIATION)
    return np.column_stack([known, np.sqrt((known**2).sum(axis=1))])
