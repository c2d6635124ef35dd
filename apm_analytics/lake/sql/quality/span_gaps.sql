-- the longest gap (s) without a span, its start (UTC), and the number of gaps longer than $min_gap_s seconds
with minutes as (
  -- relevant gaps are far longer than a minute, and minutes sort faster than spans
  select
    date_trunc('minute', time::timestamp) as minute,
    min(time) as first_time,
    max(time) as last_time
  from spans
  where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
  group by minute
),
holes as (
  select
    lag(last_time) over (order by minute) as began,
    (epoch_ns(first_time) - epoch_ns(lag(last_time) over (order by minute))) / 1e9 as gap_s
  from minutes
)
select
  coalesce(max(gap_s), 0) as gap_s,
  arg_max(began, gap_s)::timestamp as gap_began,
  count(*) filter (gap_s > $min_gap_s) as gap_count
from holes
