-- the $count operations with the highest p95 duration (s), with requests and error ratio (1)
select
  coalesce(service_name, '') as service_name,
  name as operation,
  count(*) as requests,
  avg((status_code = 'error')::double) as error_ratio,
  approx_quantile(duration_ns, 0.5) / 1e9 as latency_p50_s,
  approx_quantile(duration_ns, 0.95) / 1e9 as latency_p95_s,
  approx_quantile(duration_ns, 0.99) / 1e9 as latency_p99_s,
  max(duration_ns) / 1e9 as latency_max_s,
  sum(duration_ns) / 1e9 as total_s
from entry_spans
where time >= coalesce($since::timestamp_ns, '1700-01-01'::timestamp_ns)
  and time < coalesce($until::timestamp_ns, '2200-01-01'::timestamp_ns)
group by all
having count(*) >= $min_requests
order by latency_p95_s desc, service_name, operation
limit $count
