"""See a broken promise while it is being broken: transactions that run too long, live.

In:  a hot view of the last minutes, the transactions.
Out: at each look the violations that are new: of running instances, and of those that ended.

A root span arrives when it ends. Until then its request shows by the calls below it that have
ended already: it has run at least since the first of them began.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import polars as pl

from apm_analytics.lake import query
from apm_analytics.lake.hot import HotView
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
    """Tell of every violation once, and once more when a running one has ended.

    Parameters
    ----------
    view : of the lake that is being fed; see `lake.hot`.
    hours : calendar -> its hours.
    timeout_s : silent for longer is abandoned.
    minutes : how far back to look; no further than the view.

    Examples
    --------
    >>> watcher = Watcher(HotView(Path("data/lake")), found, hours, timeout_s=60)  # doctest: +SKIP
    >>> watcher.look(now)  # doctest: +SKIP
    """

    def __init__(
        self,
        view: HotView,
        found: Sequence[Transaction],
        hours: Mapping[str, Hours],
        *,
        timeout_s: float,
        minutes: float = 15.0,
    ) -> None:
        self._view = view
        # The view holds no maps; nobody asks for a segment here.
        self._transactions = [
            one.model_copy(update={"segment": "organization.id"}) for one in found
        ]
        self._hours = hours
        self._timeout_s = timeout_s
        self._length = timedelta(minutes=minutes)
        self._told: dict[tuple[str, int, bool], datetime] = {}

    def look(self, now: datetime) -> pl.DataFrame:
        """Read what arrived and give the violations that were not told yet.

        Parameters
        ----------
        now : UTC, without a zone.

        Returns
        -------
        `SCHEMA`, the longest first. `so_far_s` of one in flight is how long it has run at least.
        """
        self._view.refresh()
        with query.offline() as con:
            con.register("stored_spans", self._view.spans())
            query.create_views(con, ("spans", "entry_spans"))
            since = now - self._length
            found = instances.gather(
                con,
                self._transactions,
                self._hours,
                since=since,
                until=now,
                timeout_s=self._timeout_s,
            )
            frames = [self._violations(found, one, now) for one in self._transactions]
        seen = pl.concat(frames).sort("so_far_s", descending=True)
        new = [
            (row["transaction"], row["id"], row["state"] == "in_flight") not in self._told
            for row in seen.iter_rows(named=True)
        ]
        fresh = seen.filter(pl.Series(new, dtype=pl.Boolean))
        for row in fresh.iter_rows(named=True):
            self._told[row["transaction"], row["id"], row["state"] == "in_flight"] = row["time"]
        self._told = {key: time for key, time in self._told.items() if time >= since}
        return fresh.drop("id")

    def _violations(
        self, found: instances.Instances, one: Transaction, now: datetime
    ) -> pl.DataFrame:
        # In a session only the requests count, not the person's time between them.
        passed = "epoch_ns($now::timestamp) - epoch_ns(time)"
        pick = "least(duration_ns" if one.across == "session" else "greatest(elapsed_ns"
        running = f"{pick}, {passed})"
        return query.frame(
            found.con,
            f"select $name as transaction, time::timestamp as time, state,"
            f" case when state = 'in_flight' then {running} else duration_ns end / 1e9"
            " as so_far_s, $threshold as threshold_s, organization_id, trace_id, id"
            f" from {found.tables[one.name]} where in_hours and not attained"
            f" and (state in ({instances.judged_states(one)})"
            f" or (state = 'in_flight' and {running} > $threshold * 1e9))",
            {"name": one.name, "now": now, "threshold": one.sla.threshold_s},
        ).cast(pl.Schema({**SCHEMA, "id": pl.UInt64()}))
