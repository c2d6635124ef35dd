-- shares (1) of log records without a service or with a severity outside 0 to 24
select
  count(*) as rows,
  count(*) filter (coalesce(service_name, '') = '') / nullif(count(*), 0) as null_service_name,
  count(*) filter (severity_number not between 0 and 24) / nullif(count(*), 0) as severity_ratio
from logs
where $since::timestamp is null or time >= $since::timestamp::timestamp_ns
