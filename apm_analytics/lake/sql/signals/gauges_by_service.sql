-- mean of every gauge of every service (its own unit) in windows of $window_s; a point tells of the time before it
select
  time_bucket(to_seconds($window_s), time::timestamp - interval 1 microsecond) as time,
  name,
  service_name || ' ' || name as series,
  avg(value) as value
from metric_points
where kind = 'gauge'
group by all
order by series, time
