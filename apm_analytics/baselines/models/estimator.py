"""The interface of all baselines, and the checks of a batch that they share.

In:  times, and values of shape (n_series, n_time); NaN is missing.
Out: fitted estimators that predict expected values, and tables of their parameters.

The conventions are scikit-learn's: parameters in `__init__`, `get_params`, `clone`, `fit` returns
the estimator, learned attributes end in an underscore.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from apm_analytics.baselines.models import row_kernels
from apm_analytics.baselines.models.series import Floats, Ints, Times, seconds
from apm_analytics.foundation.errors import BadInput, NotEnoughData

# Outcome of each series of a batch. The last two predict NaN.
FITTED, CONSTANT, TOO_SHORT, NO_VALUES = "fitted", "constant", "too short", "no values"
FitFlags = NDArray[np.str_]


class BatchBaseline(BaseEstimator, ABC):  # type: ignore[misc]
    """A baseline of many series on one grid of times.

    Attributes
    ----------
    flags_ : str of shape (n_series,), the outcome of each series: FITTED, CONSTANT, TOO_SHORT or
        NO_VALUES.
    """

    model: ClassVar[str]
    flags_: FitFlags

    @abstractmethod
    def fit(self, times: Times, values: Floats) -> Self:
        """Fit `values` of shape (n_series, n_time) at `times`, ascending, UTC.

        Raises
        ------
        BadInput
            Shapes do not match, times are not ascending, a value is infinite.
        NotEnoughData
            No series has any value.
        """

    @abstractmethod
    def expected(self, times: Times) -> Floats:
        """Return the expected values at any times, of shape (n_series, n_times)."""

    @abstractmethod
    def frame(self) -> pl.DataFrame:
        """Return the fitted parameters as a table, one row per series."""

    @abstractmethod
    def with_frame(self, frame: pl.DataFrame) -> Self:
        """Set the fitted parameters from a table that `frame` returned."""

    def pick(self, rows: NDArray[Any]) -> "Self":
        """Return an estimator of some series, by index or by mask."""
        other = type(self)(**self.get_params())
        index = np.arange(self.flags_.size)[rows]
        return other.with_frame(self.frame()[index.tolist()])


@dataclass(frozen=True)
class Rows:
    """The checked rows of a batch.

    Parameters
    ----------
    values : float64 of shape (n_series, n_time).
    count, first, last : int64 of shape (n_series,): number of values, index of first and last.
    flags : outcomes as far as the values alone decide them.
    """

    values: Floats
    count: Ints
    first: Ints
    last: Ints
    flags: FitFlags

    def span_s(self, times: Times) -> Floats:
        """Return the seconds from the first to the last value of each series."""
        at = seconds(times)
        span: Floats = at[self.last] - at[np.minimum(self.first, self.last)]
        return span


def checked_batch(times: Times, values: Floats, *, least_points: int = 2) -> Rows:
    """Check a batch of shape (n_series, n_time); errors as in `BatchBaseline.fit`."""
    values = np.ascontiguousarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(times) or not len(times):
        raise BadInput(
            f"got values of shape {values.shape} for {len(times)} times, "
            f"need (n_series, {len(times)}) and at least one time"
        )
    late = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
    if late.size:
        raise BadInput(
            f"time {late[0] + 1} ({times[late[0] + 1]}) is not after the one before it "
            f"({times[late[0]]}); sort the times and keep one value per time"
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
    """Return the rows of a matrix as a column of lists."""
    return pl.Series(array, dtype=pl.Array(pl.Float64, array.shape[1])).arr.to_list()


def as_matrix(column: pl.Series) -> Floats:
    """Return a column of lists of equal length as a matrix."""
    flat = column.explode().to_numpy()
    if not len(column) or flat.size % len(column) or column.list.len().min() == 0:
        return np.zeros((len(column), 0))
    return np.ascontiguousarray(flat.reshape(len(column), -1), dtype=np.float64)
