-- requests a window of $window_s seconds and service: rate (1/s), error ratio (1), durations (s)
with entries as (
  select
    service_name,
    time_bucket(to_seconds($window_s), time::timestamp) as window_start,
    duration_ns / 1e9 as duration_s,
    status_code = 'error' as failed
  from entry_spans
  where time >= coalesce($since::timestamp_ns, '1700-01-01'::timestamp_ns)
    and time < coalesce($until::timestamp_ns, '2200-01-01'::timestamp_ns)
)
select
  coalesce(service_name, '') as service_name,
  window_start as time,
  count(*) as requests,
  count(*) / $window_s as rate_per_s,
  avg(failed::double) as error_ratio,
  approx_quantile(duration_s, 0.5) as latency_p50_s,
  approx_quantile(duration_s, 0.95) as latency_p95_s
from entries
group by all
order by service_name, time
