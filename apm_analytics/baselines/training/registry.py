"""The parameters of past training runs.

In:  fitted baselines and their provenance.
Out: models/parameters.parquet of the last training run, and models/runs/<run id>.parquet of the
     last `baselines.keep_runs` of them.

The estimators cost 3 s of CPU to import, so only what needs them loads them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from apm_analytics.baselines.models import store
from apm_analytics.foundation.errors import BadInput, NotFound
from apm_analytics.foundation.frames import read_parquet
from apm_analytics.foundation.provenance import Provenance, as_dict, from_dict

if TYPE_CHECKING:
    from apm_analytics.baselines.models.fitted import FittedFleet

RUNS = "runs"
SHOWN = 5  # run ids that an error names


def keep(
    fleets: "list[FittedFleet]", models: Path, provenance: Provenance, *, keep_runs: int
) -> None:
    """Write the parameters of a training run, as the latest and under its run id.

    Parameters
    ----------
    keep_runs : number of training runs kept; older ones are deleted.
    """
    from apm_analytics.baselines.models import fitted

    about = json.dumps(as_dict(provenance))
    table = fitted.table(fleets)
    store.write_frame(table, models / RUNS / f"{provenance.run_id}.parquet", {"run": about})
    store.write_frame(table, models / store.PARAMETERS, {"run": about})
    for run_id in run_ids(models)[:-keep_runs]:
        (models / RUNS / f"{run_id}.parquet").unlink()


def run_ids(models: Path) -> list[str]:
    """Return the ids of the kept training runs, the oldest first."""
    found = [(_provenance(file), file.stem) for file in (models / RUNS).glob("*.parquet")]
    return [name for _, name in sorted(found, key=lambda one: (one[0].trained_at, one[1]))]


def load(models: Path, run_id: str) -> "tuple[Provenance, list[FittedFleet]]":
    """Return the baselines of a training run by its id, and their provenance.

    Raises
    ------
    NotFound
        It is not kept; the message names those that are.

    Examples
    --------
    >>> registry.load(Path("models"), "20261123T123419Z-4f2a")  # doctest: +SKIP
    """
    from apm_analytics.baselines.models import fitted

    file = models / RUNS / f"{run_id}.parquet"
    if not file.exists():
        kept = run_ids(models)
        raise NotFound(
            f"no training run {run_id!r} in {models / RUNS}; kept are "
            f"{', '.join(kept[-SHOWN:]) or 'none'} (baselines.keep_runs in params.yaml)"
        )
    return _provenance(file), fitted.fleets_of(read_parquet(file))


def _provenance(file: Path) -> Provenance:
    try:
        content = json.loads(pl.read_parquet_metadata(file)["run"])
        return from_dict(content)
    except (pl.exceptions.PolarsError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged: {error}; remove it, or train again") from error
