-- requests per service in windows of $window_s seconds: rate (1/s), error ratio (1), durations (s), corrected for sampling
with strata as (
  -- spans of a window with equal weight: two quantiles, and 400 quantiles that represent all of them
  select
    coalesce(service_name, '') as service_name,
    time_bucket(to_seconds($window_s), time::timestamp) as time,
    sample_weight as weight,
    count(*) as seen,
    count(*) filter (status_code = 'error') as failed,
    approx_quantile(
      duration_ns,
      ([0.5, 0.95] || list_transform(range(400), lambda i: (i + 0.5) / 400))::float[]
    ) as quantiles_ns
  from entry_spans
  where entry_spans.time >= coalesce($since::timestamp_ns, '1700-01-01'::timestamp_ns)
    and entry_spans.time < coalesce($until::timestamp_ns, '2200-01-01'::timestamp_ns)
  group by all
),
windows as (
  select
    service_name,
    time,
    sum(weight * seen) as requests,
    sum(weight * failed) as failures,
    any_value(quantiles_ns) as quantiles_ns,
    count(*) > 1 as mixed
  from strata
  group by all
),
points as (
  select service_name, time, weight * strata.seen / 400 as weight, unnest(strata.quantiles_ns[3:]) as duration_ns
  from strata
  join (select service_name, time from windows where mixed) as mixed using (service_name, time)
),
ranked as (
  select
    *,
    sum(weight) over (
      partition by service_name, time
      order by duration_ns
      rows unbounded preceding
    ) / sum(weight) over (partition by service_name, time) as share
  from points
),
weighted as (
  select
    service_name,
    time,
    [min(duration_ns) filter (share >= 0.5), min(duration_ns) filter (share >= 0.95)] as weighted_ns
  from ranked
  group by all
)
select
  service_name,
  time,
  round(requests)::bigint as requests,
  requests / $window_s as rate_per_s,
  failures / requests as error_ratio,
  coalesce(weighted_ns, quantiles_ns)[1] / 1e9 as latency_p50_s,
  coalesce(weighted_ns, quantiles_ns)[2] / 1e9 as latency_p95_s
from windows
left join weighted using (service_name, time)
order by service_name, time
