-- service versions first seen in the last 24 hours of the spans (UTC), and the version before
with seen as (
  select
    service_name,
    service_version as version,
    min(time) as first_seen,
    max(time) as last_seen
  from spans
  where service_name is not null and service_version is not null
  group by all
),
newest as (
  select max(time) - interval 24 hours as since from spans
)
select
  seen.service_name,
  seen.version,
  arg_max(earlier.version, earlier.last_seen) as before,
  seen.first_seen
from seen
cross join newest
join seen as earlier
  on earlier.service_name = seen.service_name and earlier.first_seen < seen.first_seen
where seen.first_seen > newest.since
group by seen.service_name, seen.version, seen.first_seen
order by seen.first_seen, seen.service_name
