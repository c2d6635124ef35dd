-- share (1) of metrics with several units, and some of their names
with seen as (
  select service_name, name, unit, time from metric_points
  union all
  select service_name, name, unit, time from histogram_points
  union all
  select service_name, name, unit, time from exp_histogram_points
  union all
  select service_name, name, unit, time from summary_points
),
metrics as (
  select
    coalesce(service_name, '') as service_name,
    name,
    array_agg(distinct coalesce(unit, '')) as units
  from seen
  where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
  group by all
)
select
  count(*) filter (len(units) > 1) / nullif(count(*), 0) as mixed_unit_ratio,
  coalesce(array_to_string(
    (list(service_name || ' ' || name order by service_name, name) filter (len(units) > 1))[1:3], ', '
  ), '') as mixed_unit_ratio_note
from metrics
