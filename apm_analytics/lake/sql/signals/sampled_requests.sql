-- requests of one operation: duration (s), failed, sampling weight (1), trace as a number
select
  duration_ns / 1e9 as duration_s,
  status_code = 'error' as failed,
  sample_weight,
  hash(trace_id) as trace
from entry_spans
where service_name = $service_name
  and name = $operation
  and time >= $since::timestamp::timestamp_ns
  and time < $until::timestamp::timestamp_ns
order by duration_s
