-- gaps in [$since, $until) of more than $max_gap_s seconds without a span of any service: start and end (UTC)
with seen as (
  select distinct date_trunc('minute', time::timestamp) as minute
  from spans
  where time >= $since::timestamp::timestamp_ns
    and time < $until::timestamp::timestamp_ns
),
edges as (
  -- from the end of a minute with spans to the start of the next such minute
  select
    minute + interval 1 minute as began,
    coalesce(lead(minute) over (order by minute), $until::timestamp) as ended
  from seen
  union all
  select
    $since::timestamp,
    coalesce(min(minute), $until::timestamp)
  from seen
)
select
  began,
  ended
from edges
where epoch(ended) - epoch(began) > $max_gap_s
order by began
