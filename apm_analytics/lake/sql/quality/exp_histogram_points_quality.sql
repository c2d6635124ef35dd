-- shares (1) of exponential histogram points that lack a required value or whose buckets and counts disagree
select
  count(*) as rows,
  count(*) filter (coalesce(name, '') = '') / nullif(count(*), 0) as null_name,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  count(*) filter (
    count < 0
    or zero_count < 0
    or min > max
    or start_time > time
    or (
      len(positive_bucket_counts) + len(negative_bucket_counts) > 0
      and coalesce(zero_count, 0)
        + coalesce(list_sum(positive_bucket_counts), 0)
        + coalesce(list_sum(negative_bucket_counts), 0) <> count
    )
  ) / nullif(count(*), 0) as invalid_ratio
from exp_histogram_points
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
