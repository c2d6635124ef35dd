-- rate (1/s), errors, error ratio and latency quantiles (s) of every operation in windows of $window_s
with recording as (
  select min(time) as first_time, max(time) as last_time
  from spans
),
entries as (
  select
    coalesce(service_name, 'unknown_service') as service_name,
    name as operation,
    time_bucket(to_seconds($window_s), time::timestamp) as window_start,
    duration_ns,
    status_code = 'error' as failed
  from entry_spans
  where ($since::timestamp is null or time >= $since::timestamp::timestamp_ns)
    and ($until::timestamp is null or time < $until::timestamp::timestamp_ns)
),
whole as (
  select entries.*
  from entries, recording
  where window_start >= greatest(first_time::timestamp, coalesce($since::timestamp, first_time::timestamp))
    and window_start + to_seconds($window_s)
      <= least(last_time::timestamp, coalesce($until::timestamp, last_time::timestamp))
),
measured as (
  select
    service_name,
    operation,
    window_start,
    count(*) as requests,
    count(*) filter (failed) as failures,
    quantile_cont(duration_ns, [0.5, 0.95, 0.99]) as quantiles_ns
  from whole
  group by all
),
lives as (
  select
    service_name,
    operation,
    unnest(generate_series(min(window_start), max(window_start), to_seconds($window_s))) as window_start
  from measured
  group by service_name, operation
)
select
  lives.service_name,
  lives.operation,
  lives.window_start as time,
  coalesce(requests, 0) as count,
  coalesce(requests, 0) / $window_s as rate_per_s,
  coalesce(failures, 0) as error_count,
  case when requests >= $min_requests then failures / requests end as error_ratio,
  case when requests >= $min_requests then quantiles_ns[1] / 1e9 end as latency_p50_s,
  case when requests >= $min_requests then quantiles_ns[2] / 1e9 end as latency_p95_s,
  case when requests >= $min_requests then quantiles_ns[3] / 1e9 end as latency_p99_s
from lives
left join measured using (service_name, operation, window_start)
order by service_name, operation, time
