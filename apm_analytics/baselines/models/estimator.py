"""What all baselines of many series have in common: manners, checks, and a table as their file.

In:  times, and values of shape (n_series, n_time); NaN is missing.
Out: fitted estimators that predict a `Band`; Parquet files without pickles.

The manners are scikit-learn's: knobs in `__init__`, `get_params`, `clone`, `fit` returns the
estimator, what was learned ends in an underscore.
"""

import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.band import Band
from apm_analytics.baselines.models.scales import Floats
from apm_analytics.baselines.models.series import Times, seconds
from apm_analytics.foundation.atomic import write_atomic
from apm_analytics.foundation.errors import BadInput, NotEnoughData, NotFound

# Named outcomes of a series in a batch. The last two predict NaN.
FITTED, CONSTANT, TOO_SHORT, NO_VALUES = "fitted", "constant", "too short", "no values"
Flags = NDArray[np.str_]


class BatchBaseline(BaseEstimator, ABC):  # type: ignore[misc]
    """A baseline of many series on one grid of times.

    Attributes
    ----------
    flags_ : str of shape (n_series,), the outcome of each series: FITTED, CONSTANT, TOO_SHORT or
        NO_VALUES.
    """

    model: ClassVar[str]
    flags_: Flags

    @abstractmethod
    def fit(self, times: Times, values: Floats) -> Self:
        """Learn from `values` of shape (n_series, n_time) at `times`, ascending, UTC.

        Raises
        ------
        BadInput
            Shapes do not fit, times are not ascending, a value is infinite.
        NotEnoughData
            No series has a single value.
        """

    @abstractmethod
    def expected(self, times: Times) -> Floats:
        """Give the expected values at any times, of shape (n_series, n_times)."""

    @abstractmethod
    def predict(self, times: Times) -> Band:
        """Give expected values and bounds at any times, each of shape (n_series, n_times)."""

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """Give what was learned as a table, one row a series."""

    @abstractmethod
    def with_frame(self, frame: pl.DataFrame) -> Self:
        """Take over what `frame` gave; knobs stay."""

    def pick(self, rows: NDArray[Any]) -> "Self":
        """Keep some series, by index or by flag, as an estimator of its own."""
        other = type(self)(**self.get_params())
        index = np.arange(self.flags_.size)[rows]
        return other.with_frame(self.frame()[index.tolist()])

    def save(self, file: Path) -> None:
        """Write knobs and what was learned into one Parquet file, in one step."""
        content = io.BytesIO()
        knobs = {"model": self.model, "knobs": json.dumps(self.get_params(), sort_keys=True)}
        self.frame().write_parquet(content, compression="zstd", metadata=knobs)
        write_atomic(file, content.getvalue())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote; it predicts as it did when fitted.

        Raises
        ------
        NotFound
            There is no such file.
        BadInput
            It was written by another estimator.
        """
        if not file.exists():
            raise NotFound(f"no parameters at {file}; save a fitted {cls.__name__} there first")
        about = pl.read_parquet_metadata(file)
        if about.get("model") != cls.model:
            raise BadInput(f"{file} holds {about.get('model')!r}, need {cls.model!r}")
        return cls(**json.loads(about["knobs"])).with_frame(pl.read_parquet(file))


@dataclass(frozen=True)
class Rows:
    """What the rows of a batch hold.

    Parameters
    ----------
    values : float64 of shape (n_series, n_time).
    count, first, last : int64 of shape (n_series,): known values, places of first and last.
    flags : outcomes as far as the values alone decide them.
    """

    values: Floats
    count: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    flags: Flags

    def span_s(self, times: Times) -> Floats:
        """Give the seconds from the first to the last value of each series."""
        at = seconds(times)
        span: Floats = at[self.last] - at[np.minimum(self.first, self.last)]
        return span


def checked_batch(times: Times, values: Floats, *, least_points: int = 2) -> Rows:
    """Look at a batch of shape (n_series, n_time) once, or say what is wrong with it."""
    values = np.ascontiguousarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(times) or not len(times):
        raise BadInput(
            f"got values of shape {values.shape} for {len(times)} times, "
            f"need (n_series, {len(times)}) and one time at least"
        )
    late = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
    if late.size:
        raise BadInput(
            f"time {late[0] + 1} ({times[late[0] + 1]}) is not after the one before it "
            f"({times[late[0]]}); sort the times and keep one value of each"
        )
    count, first, last = (np.empty(len(values), np.int64) for _ in range(3))
    varies = np.empty(len(values), np.bool_)
    row_kernels.facts(values, count, first, last, varies)
    infinite = np.flatnonzero(count < 0)
    if infinite.size:
        raise BadInput(
            f"series {infinite[0]} has an infinite value; a ratio without requests is missing (NaN)"
        )
    if not count.any():
        raise NotEnoughData(
            f"none of {len(values)} series has a value; check the query that made them"
        )
    last[count == 0] = first[count == 0] = 0
    flags = np.full(len(values), FITTED, dtype="<U9")
    flags[~varies] = CONSTANT
    flags[count < least_points] = TOO_SHORT
    flags[count == 0] = NO_VALUES
    return Rows(values, count, first, last, flags)


def as_lists(array: Floats) -> pl.Series:
    """Give the rows of a matrix as a column of lists."""
    return pl.Series(array, dtype=pl.Array(pl.Float64, array.shape[1])).arr.to_list()


def as_matrix(column: pl.Series) -> Floats:
    """Give a column of lists of one length as a matrix."""
    flat = column.explode().to_numpy()
    if not len(column) or flat.size % len(column) or column.list.len().min() == 0:
        return np.zeros((len(column), 0))
    return np.ascontiguousarray(flat.reshape(len(column), -1), dtype=np.float64)
