-- rate (1/s) of requests from outside, the roots of traces, in windows of $window_s seconds
select
  time_bucket(to_seconds($window_s), time::timestamp) as time,
  sum(sample_weight) / $window_s as rate_per_s
from spans
where parent_span_id is null
group by all
order by time
