-- shares (1) of gauge and sum points that lack a required value or have an impossible one
select
  count(*) as rows,
  count(*) filter (coalesce(name, '') = '') / nullif(count(*), 0) as null_name,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  -- flag 1 means "no value recorded": a point that ends a series has no value
  count(*) filter (
    coalesce(flags, 0) & 1 = 0
    and (
      coalesce(value, value_int) is null
      or not isfinite(coalesce(value, value_int)::double)
      or (monotonic and coalesce(value, value_int) < 0)
      or start_time > time
    )
  ) / nullif(count(*), 0) as invalid_ratio
from metric_points
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
