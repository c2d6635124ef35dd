-- mean per gauge and service (unit of the gauge) in windows of $window_s seconds; a point belongs to the window that ends at or after it
select
  time_bucket(to_seconds($window_s), time::timestamp - interval 1 microsecond) as time,
  name,
  service_name || ' ' || name as series,
  avg(value) as value
from metric_points
where kind = 'gauge'
group by all
order by series, time
