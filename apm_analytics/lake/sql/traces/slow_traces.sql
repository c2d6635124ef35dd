-- the $count slowest requests of one operation: trace id, start (UTC), duration (s), sampling weight (1)
select
  trace_id,
  min(time) as time,
  max(duration_ns) / 1e9 as duration_s,
  max(sample_weight) as sample_weight
from entry_spans
where service_name = $service_name
  and name = $operation
group by trace_id
order by duration_s desc, trace_id
limit $count
