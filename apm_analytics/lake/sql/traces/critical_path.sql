-- critical path per trace: its spans, their critical self time (ns), which sums to the root's duration, and the root's sampling weight (1)
with recursive
-- duplicates of a span count once; with $trace_ids null: all traces that begin in [$since, $until)
found as (
  select distinct on (trace_id, span_id)
    trace_id,
    span_id,
    parent_span_id,
    coalesce(service_name, 'unknown_service') as service_name,
    name,
    status_code,
    epoch_ns(time) as starts,
    epoch_ns(time) + greatest(duration_ns, 0) as ends,
    sample_weight
  from spans
  where ($since::timestamp is null or time >= $since::timestamp::timestamp_ns)
    and ($until::timestamp is null or time < $until::timestamp::timestamp_ns)
    and ($trace_ids::varchar[] is null or trace_id in (select unnest($trace_ids::varchar[])))
),
numbered as materialized (
  select
    row_number() over () as id,
    *
  from found
),
linked as materialized (
  select
    child.id,
    parent.id as parent,
    child.starts,
    child.ends,
    hash(child.span_id) as tie
  from numbered as child
  left join numbered as parent
    on parent.trace_id = child.trace_id
    and parent.span_id = child.parent_span_id
),
-- from the roots down, each span clipped to its parent; a span without length inside its parent or
-- in a cycle is dropped; a span whose parent never arrived is a root
tree as (
  select
    id,
    id as root,
    parent,
    starts,
    ends,
    tie,
    1 as depth
  from linked
  where parent is null
  union all
  select
    linked.id,
    tree.root,
    linked.parent,
    greatest(linked.starts, tree.starts),
    least(linked.ends, tree.ends),
    linked.tie,
    depth + 1
  from tree
  join linked on linked.parent = tree.id
  where least(linked.ends, tree.ends) > greatest(linked.starts, tree.starts)
    and depth < 1000
),
clipped as materialized (
  select *
  from tree
),
moments as (
  select parent, id, tie, starts, starts as moment, false as is_end
  from clipped
  where parent is not null
  union all
  select parent, id, tie, starts, ends, true
  from clipped
  where parent is not null
),
ordered as (
  select
    parent,
    id,
    is_end,
    moment,
    last_value(case when is_end then id end ignore nulls)
      over (before rows between unbounded preceding and 1 preceding) as ended,
    lag(moment) over before as earlier,
    lead(id) over before as following,
    lead(is_end) over before as following_is_end,
    lead(moment) over before as later,
    lead(moment, 2) over before as latest
  from moments
  window before as (partition by parent order by moment, is_end desc, starts, tie)
),
-- the sibling that ended last before this one began. Clocks differ, so a sibling that overlaps by
-- less than 1 % of the parent, while no other sibling starts or ends, counts as earlier.
siblings as (
  select
    ordered.id,
    case
      when following_is_end
        and following <> ordered.id
        and later - moment < 0.01 * (parents.ends - parents.starts)
        and coalesce(latest > later, true)
        and coalesce(earlier < moment, true)
        then following
      else ended
    end as previous
  from ordered
  join clipped as parents on parents.id = ordered.parent
  where not is_end
),
last_children as (
  select
    parent,
    arg_max(id, (ends, starts, tie)) as child
  from clipped
  where parent is not null
  group by parent
),
pointers as materialized (
  select
    clipped.id,
    last_children.child,
    siblings.previous
  from clipped
  left join last_children on last_children.parent = clipped.id
  left join siblings on siblings.id = clipped.id
),
walk as (
  select
    pointers.id,
    child,
    previous
  from pointers
  join clipped on clipped.id = pointers.id
  where clipped.parent is null
  union all
  select
    pointers.id,
    pointers.child,
    pointers.previous
  from (select unnest([child, previous]) as id from walk) as ahead
  join pointers on pointers.id = ahead.id
),
path as materialized (
  select
    clipped.id,
    clipped.root,
    clipped.parent,
    clipped.depth,
    clipped.starts,
    clipped.ends
  from walk
  join clipped on clipped.id = walk.id
),
inside as (
  select
    parent,
    sum(ends - starts) as covered
  from path
  where parent is not null
  group by parent
)
select
  numbered.trace_id,
  numbered.span_id,
  roots.span_id as root_span_id,
  roots.service_name as root_service,
  roots.name as root_operation,
  numbered.service_name,
  numbered.name as operation,
  numbered.status_code,
  roots.sample_weight,
  path.depth,
  path.starts,
  (path.ends - path.starts - coalesce(inside.covered, 0))::bigint as critical_ns
from path
join numbered on numbered.id = path.id
join numbered as roots on roots.id = path.root
left join inside on inside.parent = path.id
