-- utilisation (1) of each resource of a service, mean over instances in windows of $window_s seconds
with gauges as (
  select
    coalesce(service_name, 'unknown_service') as service_name,
    name,
    time_bucket(to_seconds($window_s), time::timestamp) as window_start,
    case unit when '%' then value / 100 else value end as share
  from metric_points
  where kind = 'gauge'
    and unit in ('1', '%')
    and regexp_matches(name, '(utili[sz]ation|usage_rate)$')
    and ($since::timestamp is null or time >= $since::timestamp::timestamp_ns)
    and isfinite(value)
)
select
  service_name,
  name as resource,
  window_start as time,
  avg(share) as share
from gauges
group by all
order by service_name, resource, time
