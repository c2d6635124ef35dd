-- requests of $service whose root has not arrived, identified by the spans below such roots in complete traces
with rooted as (
  select distinct trace_id
  from spans
  where parent_span_id is null
),
unrooted as materialized (
  select *
  from spans
  anti join rooted using (trace_id)
  where time >= $since::timestamp::timestamp_ns
    and time < $until::timestamp::timestamp_ns
),
-- the topmost spans that arrived; one operation may have several roots
tops as materialized (
  select child.*
  from unrooted as child
  anti join unrooted as parent
    on parent.trace_id = child.trace_id
    and parent.span_id = child.parent_span_id
),
-- the roots of such a span in traces whose root arrived
hung as (
  select
    child.service_name,
    child.name,
    sum(child.sample_weight) as traces,
    sum(child.sample_weight) filter (
      root.service_name = $service
      and root.name in (select unnest($operations))
    ) as own
  from spans as child
  join spans as root
    on root.trace_id = child.trace_id
    and root.span_id = child.parent_span_id
  where root.parent_span_id is null
    and (child.service_name, child.name) in (select (service_name, name) from tops)
  group by all
),
chosen as (
  select distinct trace_id
  from tops
  join hung using (service_name, name)
  where own >= 0.99 * traces
)
select
  min(time) as time,
  $service as service_name,
  $operations[1] as name,
  greatest(max(epoch_ns(time) + duration_ns) - min(epoch_ns(time)), $timeout_ns)::bigint as duration_ns,
  (max(epoch_ns(time) + duration_ns) - min(epoch_ns(time)))::bigint as elapsed_ns,
  'error' as status_code,
  hash(trace_id, arg_min(span_id, time)) as id,
  arg_min(sample_weight, time) as weight,
  case
    when max(epoch_ns(time) + duration_ns) + $timeout_ns > epoch_ns($until::timestamp) then 'in_flight'
    else 'abandoned'
  end as state,
  0 as reached,
  trace_id,
  max(user_id) as user_id,
  max(organization_id) as organization_id,
  max(session_id) as session_id,
  null::varchar as segment
from unrooted
where trace_id in (select trace_id from chosen)
group by trace_id
