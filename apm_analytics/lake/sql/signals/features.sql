-- rate (1/s) with its standard error, errors, error ratio and latency quantiles (s) per operation in windows of $window_s seconds
-- every span has its sampling weight, which is 1 without sampling
with recording as (
  select
    least(max(time)::timestamp, coalesce($until::timestamp, max(time)::timestamp)) as ending,
    greatest(min(time)::timestamp, coalesce($since::timestamp, min(time)::timestamp)) as beginning
  from spans
),
entries as (
  select
    coalesce(service_name, 'unknown_service') as service_name,
    name as operation,
    time_bucket(to_seconds($window_s), time::timestamp) as window_start,
    duration_ns,
    status_code = 'error' as failed,
    sample_weight as weight,
    -- spans of one trace are sampled together
    if(trace_state is null, null, hash(trace_id)) as trace
  from entry_spans
  where ($since::timestamp is null or time >= $since::timestamp::timestamp_ns)
    and ($until::timestamp is null or time < $until::timestamp::timestamp_ns)
),
whole as (
  select entries.*
  from entries, recording
  where window_start >= beginning
    and window_start + to_seconds($window_s) <= ending
),
measured as (
  select
    service_name,
    operation,
    window_start,
    count(*) as seen,
    sum(weight) as requests,
    coalesce(sum(weight) filter (failed), 0) as failures,
    min(weight) < max(weight) as mixed,
    quantile_cont(duration_ns, [0.5, 0.95, 0.99]) as quantiles_ns
  from whole
  group by all
),
ranked as (
  -- only windows whose spans have different weights
  select
    whole.*,
    sum(weight) over (
      partition by service_name, operation, window_start
      order by duration_ns
      rows unbounded preceding
    ) / requests as share
  from whole
  join (from measured where mixed) using (service_name, operation, window_start)
),
weighted as (
  select
    service_name,
    operation,
    window_start,
    [
      min(duration_ns) filter (share >= 0.5),
      min(duration_ns) filter (share >= 0.95),
      min(duration_ns) filter (share >= 0.99)
    ] as weighted_ns
  from ranked
  group by all
),
traces as (
  select service_name, operation, window_start, trace, sum(weight) as requests, max(weight) as weight
  from whole
  where weight > 1
  group by all
),
errors as (
  -- Horvitz-Thompson estimator of traces that are sampled independently
  select service_name, operation, window_start, sqrt(sum(requests ** 2 * (1 - 1 / weight))) as requests_se
  from traces
  group by all
),
lives as (
  -- an operation without requests since its last window has rate 0 until it counts as retired
  select
    service_name,
    operation,
    unnest(generate_series(
      min(window_start),
      if(
        max(window_start) >= any_value(ending) - to_seconds($retired_after_s),
        greatest(
          max(window_start),
          time_bucket(to_seconds($window_s), any_value(ending)) - to_seconds($window_s)
        ),
        max(window_start)
      ),
      to_seconds($window_s)
    )) as window_start
  from measured, recording
  group by service_name, operation
)
select
  lives.service_name,
  lives.operation,
  lives.window_start as time,
  round(coalesce(requests, 0)) as count,
  coalesce(seen, 0) as seen_count,
  coalesce(requests, 0) / $window_s as rate_per_s,
  coalesce(requests_se, 0) / $window_s as rate_se_per_s,
  round(coalesce(failures, 0)) as error_count,
  case when seen >= $min_requests then failures / requests end as error_ratio,
  case when seen >= $min_requests then coalesce(weighted_ns, quantiles_ns)[1] / 1e9 end as latency_p50_s,
  case when seen >= $min_requests then coalesce(weighted_ns, quantiles_ns)[2] / 1e9 end as latency_p95_s,
  case when seen >= $min_requests then coalesce(weighted_ns, quantiles_ns)[3] / 1e9 end as latency_p99_s
from lives
left join measured using (service_name, operation, window_start)
left join weighted using (service_name, operation, window_start)
left join errors using (service_name, operation, window_start)
order by service_name, operation, time
