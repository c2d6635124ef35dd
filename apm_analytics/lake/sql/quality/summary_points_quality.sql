-- shares (1) of summary points that lack a required value or have impossible counts or quantiles
select
  count(*) as rows,
  count(*) filter (coalesce(name, '') = '') / nullif(count(*), 0) as null_name,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  count(*) filter (
    count < 0
    or start_time > time
    or list_min(quantiles) < 0
    or list_max(quantiles) > 1
    or len(quantiles) <> len(quantile_values)
  ) / nullif(count(*), 0) as invalid_ratio
from summary_points
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
