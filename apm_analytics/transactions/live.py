"""Watch transactions live and report SLA violations while they happen.

In:  a hot view of the last minutes, the transactions.
Out: on each look the new violations, of running and of ended instances.

A root span arrives only when it ends. Until then a request is visible through its child spans that
have already ended: it has been running at least since the first of them began.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.lake import HotView, query
from apm_analytics.transactions import instances
from apm_analytics.transactions.hours import Hours
from apm_analytics.transactions.specs import Transaction

SCHEMA: dict[str, pl.DataType] = {
    "transaction": pl.String(),
    "time": pl.Datetime("us"),
    "state": pl.String(),
    "so_far_s": pl.Float64(),
    "threshold_s": pl.Float64(),
    "organization_id": pl.String(),
    "trace_id": pl.String(),
}


class Watcher:
    """Report every violation once, and once more when a running instance has ended.

    Parameters
    ----------
    view : of the lake that is being written; see `lake.hot`.
    hours : calendar -> its hours.
    timeout_s : an instance without a span for longer is abandoned.
    minutes : how far back to look; no further than the view.

    Examples
    --------
    >>> view = HotView(Path("data/lake"))  # doctest: +SKIP
    >>> watcher = Watcher(view, transactions, hours, timeout_s=60)  # doctest: +SKIP
    >>> watcher.look(now)  # doctest: +SKIP
    """

    def __init__(
        self,
        view: HotView,
        transactions: Sequence[Transaction],
        hours: Mapping[str, Hours],
        *,
        timeout_s: float,
        minutes: float = 15.0,
    ) -> None:
        self._view = view
        # The view has no map columns, which another segment may need.
        self._transactions = [
            transaction.model_copy(update={"segment": "organization.id"})
            for transaction in transactions
        ]
        self._hours = hours
        self._timeout_s = timeout_s
        self._length = timedelta(minutes=minutes)
        self._reported: dict[tuple[str, int, bool], datetime] = {}

    def look(self, now: datetime) -> pl.DataFrame:
        """Read what arrived and return the violations not reported yet.

        Parameters
        ----------
        now : naive UTC.

        Returns
        -------
        `SCHEMA`, longest first. `so_far_s` of an instance in flight is a lower bound.
        """
        self._view.refresh()
        with query.offline() as con:
            con.register("stored_spans", self._view.spans())
            query.create_views(con, ("spans", "entry_spans"))
            since = now - self._length
            gathered = instances.gather(
                con,
                self._transactions,
                self._hours,
                since=since,
                until=now,
                timeout_s=self._timeout_s,
            )
            frames = [self._violations(gathered, one, now) for one in self._transactions]
        seen = pl.concat(frames).sort("so_far_s", descending=True)
        new = [
            (row["transaction"], row["id"], row["state"] == "in_flight") not in self._reported
            for row in seen.iter_rows(named=True)
        ]
        fresh = seen.filter(pl.Series(new, dtype=pl.Boolean))
        for row in fresh.iter_rows(named=True):
            self._reported[row["transaction"], row["id"], row["state"] == "in_flight"] = row["time"]
        self._reported = {key: time for key, time in self._reported.items() if time >= since}
        return fresh.drop("id")

    def _violations(
        self, gathered: instances.Instances, one: Transaction, now: datetime
    ) -> pl.DataFrame:
        # In a session only the requests count, not the user's pauses between them.
        passed = "epoch_ns($now::timestamp) - epoch_ns(time)"
        pick = "least(duration_ns" if one.across == "session" else "greatest(elapsed_ns"
        running = f"{pick}, {passed})"
        return query.frame(
            gathered.con,
            f"select $name as transaction, time::timestamp as time, state,"
            f" case when state = 'in_flight' then {running} else duration_ns end / 1e9"
            " as so_far_s, $threshold as threshold_s, organization_id, trace_id, id"
            f" from {gathered.tables[one.name]} where in_hours and not attained"
            f" and (state in ({instances.judged_states(one)})"
            f" or (state = 'in_flight' and {running} > $threshold * 1e9))",
            {"name": one.name, "now": now, "threshold": one.sla.threshold_s},
        ).cast(pl.Schema({**SCHEMA, "id": pl.UInt64()}))
