-- shares (1) of histogram points that lack a required value or whose buckets and counts disagree
select
  count(*) as rows,
  count(*) filter (coalesce(name, '') = '') / nullif(count(*), 0) as null_name,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  count(*) filter (
    count < 0
    or min > max
    or start_time > time
    or (len(bucket_counts) > 0 and len(bucket_counts) <> coalesce(len(explicit_bounds), 0) + 1)
    or (len(bucket_counts) > 0 and list_sum(bucket_counts) <> count)
  ) / nullif(count(*), 0) as invalid_ratio
from histogram_points
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
