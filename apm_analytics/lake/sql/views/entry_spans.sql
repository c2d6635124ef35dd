-- the spans where a service was entered, which are its operations: one row per request
select *
from spans
where kind in ('server', 'consumer')
  or parent_span_id is null
union all
-- spans without a kind: inside a trace, but called by another service
select called.*
from spans as called
where called.kind in ('internal', 'unspecified')
  and called.parent_span_id is not null
  and exists (
    select 1
    from spans as caller
    where caller.trace_id = called.trace_id
      and caller.span_id = called.parent_span_id
      and caller.service_name <> called.service_name
  )
