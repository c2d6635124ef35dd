-- the spans of the trace $trace_id in order of their start; start_s and duration_s in seconds
select
  span_id,
  parent_span_id,
  coalesce(service_name, '') as service_name,
  name,
  kind,
  status_code,
  status_message,
  (epoch_ns(time) - min(epoch_ns(time)) over ()) / 1e9 as start_s,
  duration_ns / 1e9 as duration_s
from spans
where trace_id = $trace_id
qualify row_number() over (partition by span_id order by time, duration_ns desc) = 1
order by start_s, duration_s desc, span_id
