-- spans and log records with the id $id: a correlation, request, session or trace id
with traces as (
  select distinct trace_id
  from (
    select trace_id, session_id, attributes from spans
    union all
    select trace_id, session_id, attributes from logs
  )
  where $id in (trace_id, session_id, attributes['correlation.id'], attributes['request.id'])
    and trace_id <> ''
)
select
  'span' as what,
  time,
  service_name as service,
  name as text,
  status_code as status,
  duration_ns / 1e9 as duration_s,
  session_id as session,
  trace_id
from spans
where trace_id in (select trace_id from traces)
union all
select
  'log' as what,
  time,
  service_name as service,
  coalesce(nullif(event_name, ''), body) as text,
  severity_text as status,
  null as duration_s,
  session_id as session,
  trace_id
from logs
where trace_id in (select trace_id from traces)
  or $id in (session_id, attributes['correlation.id'], attributes['request.id'])
order by time
