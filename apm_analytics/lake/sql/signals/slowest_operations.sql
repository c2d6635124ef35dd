-- the $count operations with the highest p95 duration (s), with requests and error ratio (1), corrected for sampling
with strata as (
  -- spans of an operation with equal weight: three quantiles, and 400 quantiles that represent all of them
  select
    coalesce(service_name, '') as service_name,
    name as operation,
    sample_weight as weight,
    count(*) as seen,
    count(*) filter (status_code = 'error') as failed,
    approx_quantile(
      duration_ns,
      ([0.5, 0.95, 0.99] || list_transform(range(400), lambda i: (i + 0.5) / 400))::float[]
    ) as quantiles_ns,
    max(duration_ns) as longest_ns,
    sum(duration_ns) as total_ns
  from entry_spans
  where time >= coalesce($since::timestamp_ns, '1700-01-01'::timestamp_ns)
    and time < coalesce($until::timestamp_ns, '2200-01-01'::timestamp_ns)
  group by all
),
operations as (
  select
    service_name,
    operation,
    sum(seen) as seen,
    sum(weight * seen) as requests,
    sum(weight * failed) as failures,
    any_value(quantiles_ns) as quantiles_ns,
    count(*) > 1 as mixed,
    max(longest_ns) as longest_ns,
    sum(weight * total_ns) as total_ns
  from strata
  group by all
  having sum(seen) >= $min_requests
),
points as (
  select service_name, operation, weight * strata.seen / 400 as weight, unnest(strata.quantiles_ns[4:]) as duration_ns
  from strata
  join (select service_name, operation from operations where mixed) as mixed using (service_name, operation)
),
ranked as (
  select
    *,
    sum(weight) over (
      partition by service_name, operation
      order by duration_ns
      rows unbounded preceding
    ) / sum(weight) over (partition by service_name, operation) as share
  from points
),
weighted as (
  select
    service_name,
    operation,
    [
      min(duration_ns) filter (share >= 0.5),
      min(duration_ns) filter (share >= 0.95),
      min(duration_ns) filter (share >= 0.99)
    ] as weighted_ns
  from ranked
  group by all
)
select
  service_name,
  operation,
  round(requests)::bigint as requests,
  failures / requests as error_ratio,
  coalesce(weighted_ns, quantiles_ns)[1] / 1e9 as latency_p50_s,
  coalesce(weighted_ns, quantiles_ns)[2] / 1e9 as latency_p95_s,
  coalesce(weighted_ns, quantiles_ns)[3] / 1e9 as latency_p99_s,
  longest_ns / 1e9 as latency_max_s,
  total_ns / 1e9 as total_s
from operations
left join weighted using (service_name, operation)
order by latency_p95_s desc, service_name, operation
limit $count
