-- numbers of spans, distinct ids, children without a parent and outside of their parent; slice $slice of $slices
with chosen as materialized (
  -- with ids as 8-byte hashes the join needs a fifth of the memory
  select
    hash(trace_id) as trace,
    hash(trace_id, span_id) as id,
    if(parent_span_id is null, null, hash(trace_id, parent_span_id)) as parent_id,
    kind is not distinct from 'producer' as producer,
    kind is not distinct from 'consumer' as consumer,
    epoch_ns(time) as start_ns,
    epoch_ns(time) + duration_ns as end_ns
  from spans
  where hash(trace_id) % $slices = $slice
    and ($since::timestamp is null or time >= $since::timestamp::timestamp_ns)
),
-- traces at the start or end of the recording: their parents may lie outside of it
cut as (
  select distinct hash(trace_id) as trace
  from spans
  where time < $begun::timestamp::timestamp_ns
    or time > $ending::timestamp::timestamp_ns
),
children as (
  select
    parents.id is null as orphan,
    child.trace in (select trace from cut) as cut,
    child.start_ns < parents.start_ns - $tolerance_s * 1e9 as early,
    -- asynchronous work may outlive its caller
    child.end_ns > parents.end_ns + $tolerance_s * 1e9
      and not child.consumer
      and not parents.producer as late
  from chosen as child
  left join chosen as parents on child.parent_id = parents.id
  where child.parent_id is not null
)
select
  (select count(*) from chosen) as span_count,
  (select count(distinct id) from chosen) as id_count,
  count(*) filter (not cut) as whole_count,
  count(*) filter (orphan and not cut) as orphan_count,
  count(*) filter (not orphan) as child_count,
  count(*) filter (early or late) as skewed_count
from children
